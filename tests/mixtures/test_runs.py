"""Mixture runs: out of a loss table, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from planted_mixture_runs import design, mixtures

from lossline.errors import UserError
from lossline.mixtures.runs import MixtureRuns, shares_of
from lossline.tables.frames import from_rows


def rows(run, shares, *, tokens=None, steps=(0, 10, 20), **facts):
    """Rows of one run: validation loss on wiki, bits per byte of arc."""
    return [
        {
            "run_id": run,
            "step": step,
            "tokens": 100 * step,
            "flops": 6.0 * 1000 * 100 * step,
            "params": 1000,
            "eval_set": name,
            "kind": kind,
            column: 3.0 + step / 100,
            **{f"share.{part}": share for part, share in shares.items()},
            **{f"component_tokens.{part}": step * t for part, t in (tokens or {}).items()},
            **facts,
        }
        for step in steps
        for name, kind, column in (
            ("wiki", "validation", "loss"),
            ("arc", "task", "bits_per_byte"),
        )
    ]


def test_table_gives_shares_losses_and_scale_by_name():
    table = from_rows(
        rows("a", {"wiki": 0.25, "code": 0.75}) + rows("b", {"code": 0.5, "wiki": 0.5})
    )
    runs = MixtureRuns.from_table(table)
    assert runs.components == ("code", "wiki")
    assert runs.domains == ("wiki", "arc")  # a domain may have the name of a component
    assert len(runs) == 4  # checkpoints without tokens are left out
    np.testing.assert_allclose(runs.shares[runs.runs == "a"], [[0.75, 0.25]] * 2)
    np.testing.assert_allclose(runs.losses[:, 0], [3.1, 3.2] * 2)
    assert runs.flops_per_product == pytest.approx(6.0)


def test_missing_share_beside_others_is_zero_and_tokens_stand_in_for_shares():
    table = from_rows(
        rows("a", {"wiki": 1.0})
        + rows("b", {"wiki": 0.5, "code": 0.5})
        + rows("c", {}, tokens={"wiki": 30, "code": 70})
        + rows("alone", {})
    )
    runs = MixtureRuns.from_table(table, components=("wiki", "code"))
    shares = {run: runs.shares[runs.runs == run][0].tolist() for run in set(runs.runs)}
    assert shares == {"a": [1.0, 0.0], "b": [0.5, 0.5], "c": pytest.approx([0.3, 0.7])}


def test_domains_are_chosen_by_set_and_unit():
    table = from_rows(rows("a", {"wiki": 0.5, "code": 0.5}))
    assert MixtureRuns.from_table(table, domains=[("arc", "bits_per_byte")]).domains == ("arc",)
    with pytest.raises(UserError, match=r"domain 'arcc' has no loss.*did you mean 'arc'"):
        MixtureRuns.from_table(table, domains=[("arcc", "loss")])


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (rows("a", {}), {}, "the table has no mixtures"),
        (rows("a", {"wiki": 0.5, "code": 0.3}), {}, "sum to 0.8, not to 1"),
        (rows("a", {"wiki": 1.0, "code": 0.0}), {}, "'code' has no run with a share above 0"),
        (rows("a", {"wiki": 0.5, "code": 0.5}), {"components": ("wiki",)}, "was trained on it"),
        (rows("a", {"wiki": 1.0}), {"components": ("wikis",)}, "did you mean 'wiki'"),
        (rows("a", {"wiki": 1.0}, params=None), {}, "params has an empty value"),
        (rows("a", {"wiki": 1.0}, steps=(0,)), {}, "no run with a mixture has a loss"),
    ],
)
def test_bad_tables_are_one_line(table, options, message):
    with pytest.raises(UserError, match=message):
        MixtureRuns.from_table(from_rows(table), **options)


def test_bad_arrays_are_refused():
    runs = design(mixtures(3))
    for fields, message in (
        ({"shares": runs.shares[:, :2]}, "one share for each of the 3 components"),
        ({"shares": -runs.shares}, "share of 'code' is -"),
        ({"tokens": runs.tokens[1:]}, "tokens has shape"),
        ({"params": 0 * runs.params}, "params has an empty value or one that is not positive"),
    ):
        with pytest.raises(UserError, match=message):
            replace(runs, **fields)


def test_rounded_shares_are_scaled_to_one():
    runs = replace(design([[0.3, 0.3, 0.4]]), shares=np.full((9, 3), 0.333))
    np.testing.assert_allclose(runs.shares, 1 / 3)


def test_mixtures_are_given_by_name():
    np.testing.assert_allclose(
        shares_of({"wiki": 0.4, "code": 0.6}, ("code", "web", "wiki")), [[0.6, 0, 0.4]]
    )
    with pytest.raises(UserError, match="'cod' is unknown; did you mean 'code'"):
        shares_of({"cod": 1.0}, ("code", "web"))
    with pytest.raises(UserError, match=r"sum to 0\.7"):
        shares_of({"code": 0.7}, ("code", "web"))


def test_run_numbers_do_not_depend_on_names():
    runs = design(mixtures(3))
    losses = runs.losses + np.arange(len(runs))[:, None]
    named = replace(runs, losses=losses, runs=[f"z{9 - i // 3}" for i in range(len(runs))])
    other = replace(runs, losses=losses, runs=[f"a{i // 3}" for i in range(len(runs))])
    assert named.run_numbers.tolist() == other.run_numbers.tolist()


def test_domains_can_be_picked_by_name():
    runs = design(mixtures(3), domains=("a", "b"))
    assert runs.only(["b"]).domains == ("b",)
    with pytest.raises(UserError, match="domain 'c' is unknown"):
        runs.only(["c"])
