"""Pairs between groups of runs: equal (N, D), or interpolated in compute."""

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.lines.fitting import LineKind, fit_lines_between
from lossline.lines.specimens import between_groups
from lossline.tables.pairing import Measurements, Pairing, one_set, pair_groups


def runs(data: str, sizes, ratio=20.0, power=-0.05, extra=()):
    rows = []
    for size in sizes:
        C = 6 * size * size * ratio
        facts = dict(run_id=f"{data}-{size:.4g}", architecture="llama", tokenizer="bpe", step=1,
                     pretraining_data=data, params=size, tokens=size * ratio, flops=C)  # fmt: skip
        loss = 1.5 + 60 * C**power
        rows.append({**facts, "eval_set": "own", "kind": "validation", "loss": loss})
    return tables.from_rows([*rows, *extra])


def test_equal_scales_are_paired_one_to_one():
    sizes = np.geomspace(1e7, 1e9, 9)
    one, other = runs("a", sizes), runs("b", sizes[2:] * (1 + 1e-5))
    pairs = pair_groups(one, other.sample(frac=1, random_state=1), "own", "own")
    assert pairs.how is Pairing.EQUAL_SCALE
    assert len(pairs) == 7
    assert pairs.left_out == 2
    np.testing.assert_allclose(pairs.x, pairs.y, rtol=1e-4)
    assert len(set(pairs.runs)) == 7
    assert list(pairs.runs) == [f"{x} | {y}" for x, y in zip(*pairs.sources, strict=True)]


def test_other_scales_are_interpolated_only_inside_the_range():
    one = runs("a", np.geomspace(1e7, 1e9, 9))
    other = runs("b", np.geomspace(2.1e7, 4e8, 14), ratio=30.0)
    pairs = pair_groups(one, other, "own", "own")
    assert pairs.how is Pairing.INTERPOLATED
    low, high = other.flops.min(), other.flops.max()
    assert ((pairs.flops >= low) & (pairs.flops <= high)).all()
    np.testing.assert_allclose(pairs.y, pairs.x, rtol=2e-3)  # one law of compute for both
    compute = other.set_index("run_id")["flops"]
    runs_x, before, after = pairs.sources
    np.testing.assert_array_equal(runs_x, pairs.runs)
    assert (compute[before].to_numpy() <= pairs.flops).all()
    assert (compute[after].to_numpy() >= pairs.flops).all()


def test_lines_connect_groups_that_differ_only_in_vary():
    sizes = np.geomspace(1e7, 1e9, 9)
    table = tables.concat([runs("a", sizes), runs("b", sizes, power=-0.052)])
    mamba = runs("c", sizes).assign(architecture="mamba")
    lines = fit_lines_between(tables.concat([table, mamba]), vary=["pretraining_data"])
    assert [line.name for line in lines] == [
        "llama, a, bpe: own -> llama, b, bpe: own",
        "llama, b, bpe: own -> llama, a, bpe: own",
    ]
    assert all(line.kind is LineKind.TRAIN_TO_TRAIN and line.drawable for line in lines)
    with pytest.raises(UserError, match="vary = seed: must name facts of group_by"):
        between_groups(table, vary=["seed"])


def test_groups_without_common_scale_have_a_message():
    table = tables.concat([runs("a", [1e7, 2e7, 4e7]), runs("b", [1e9, 2e9, 4e9])])
    lines = fit_lines_between(table, vary=["pretraining_data"])
    assert {line.pairing for line in lines} == {Pairing.NONE}
    assert all("no checkpoint" in line.message for line in lines)


def seeds(data: str, noise: float, count: int = 4):
    """Runs of six sizes, ``count`` of each, that differ only in noise."""
    random = np.random.default_rng(ord(data))
    parts = [
        runs(data, np.geomspace(1e7, 1e9, 6)).assign(run_id=lambda t, s=s: t.run_id + f"-{s}")
        for s in range(count)
    ]
    table = tables.concat(parts)
    return table.assign(loss=table.loss * (1 + noise * random.normal(size=len(table))))


def test_names_of_runs_have_no_effect_on_partners():
    one, other = seeds("a", 0.01), seeds("b", 0.01)
    names = np.random.default_rng(0).permutation(other.run_id)
    renamed = other.assign(run_id=names).sample(frac=1, random_state=1)
    pairs, again = (pair_groups(one, y, "own", "own") for y in (other, renamed))
    assert len(pairs) == 24
    np.testing.assert_array_equal(pairs.x, again.x)
    np.testing.assert_array_equal(pairs.y, again.y)


def test_runs_of_one_scale_are_not_paired_by_rank():
    """Noise of two groups is independent, so noise of their pairs must be."""
    one, other = seeds("a", 0.01, count=40), seeds("b", 0.01, count=40)
    pairs = pair_groups(one, other, "own", "own")
    assert len(pairs) == 240
    size = [pairs.params == n for n in np.unique(pairs.params)]
    shared = [np.corrcoef(pairs.x[at], pairs.y[at])[0, 1] for at in size]
    assert abs(np.mean(shared)) < 3 / np.sqrt(240)


def test_order_of_rows_does_not_choose_between_near_copies():
    one = runs("a", [1e7, 2e7, 4e7])
    copies = tables.concat([one, one.assign(loss=one.loss * (1 + 1e-7))])
    first, second = (one_set(t, "own", "loss").value for t in (copies, copies.iloc[::-1]))
    np.testing.assert_array_equal(np.sort(first), np.sort(second))


def test_all_sets_at_once_are_measured_like_each_alone():
    one = runs("a", [1e7, 2e7, 4e7])
    near = one.assign(eval_set="near")
    torn = one.assign(eval_set="torn")
    failed = one.assign(eval_set="failed", status="failed", loss=np.nan)
    table = tables.concat(
        [near, torn, one, near.assign(loss=near.loss * (1 + 1e-7)), torn.assign(loss=9.0), failed]
    )
    measured = Measurements(table, "loss")
    for name, points in {"own": 3, "near": 3, "failed": 0, "absent": 0}.items():
        pd.testing.assert_frame_equal(measured.of_set(name), one_set(table, name, "loss"))
        assert len(measured.of_set(name)) == points
    np.testing.assert_array_equal(measured.of_set("near")["value"], one["loss"])
    with pytest.raises(UserError, match=r"'torn': run 'a-1e.07', step 1 exists twice"):
        measured.of_set("torn")
