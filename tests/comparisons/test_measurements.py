"""Which runs are compared, and what their loss on a target is."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from planted_comparison import BYTES, planted

from lossline import tables
from lossline.comparisons.measurements import measure
from lossline.comparisons.options import Budget, CompareOptions, Unequal
from lossline.errors import UserError
from lossline.tables.schema import Unit

OPTIONS = CompareOptions(by="factor.target", targets={"code": ("code",), "bio": ("bio",)})


def test_runs_count_for_their_target_and_shared_runs_for_each() -> None:
    found = measure(planted(), OPTIONS)
    counts = found.rows.groupby(["target", "method"]).size().to_dict()
    assert counts == {(t, m): 3 for t in ("bio", "code") for m in ("dsir", "oracle", "uniform")}
    made = found.rows[found.rows["method"] == "dsir"]
    assert all(target in run for target, run in zip(made["target"], made["run_id"], strict=True))
    assert not found.notes and found.left_out.empty


def test_the_last_checkpoint_counts() -> None:
    """The first checkpoint of the planted runs is one bit worse."""
    found = measure(planted(noise=0.0, seed_noise=0.0), OPTIONS).rows
    assert np.allclose(found["value"][found["method"] == "uniform"], 2.0)


def test_a_failed_last_checkpoint_is_not_replaced_by_an_earlier_one() -> None:
    table = planted()
    bad = (table["run_id"] == "dsir-code-1") & (table["step"] == 20) & (table["eval_set"] == "code")
    table.loc[bad, ["status", "message"]] = ["failed", "NaN"]
    table.loc[bad, ["nats", "bits_per_byte", "loss"]] = np.nan
    found = measure(table, OPTIONS)
    assert "dsir-code-1" not in set(found.rows["run_id"])
    [left] = found.left_out.to_dict("records")
    assert left["what"] == "dsir-code-1 on code" and "no bits per byte of code" in left["reason"]


def test_sets_of_a_target_are_joined_by_their_sums() -> None:
    table = planted(effects={"uniform": 0.0}, noise=0.0, seed_noise=0.0)
    bio = table["eval_set"] == "bio"
    table.loc[bio, "target_bytes"] = (
        3 * BYTES
    )  # a third of the bits per byte, three times the bytes
    table = tables.derive(table.assign(bits_per_byte=np.nan, loss=np.nan))
    joined = dataclasses.replace(OPTIONS, by="", targets={"both": ("code", "bio")})
    found = measure(table, joined)
    assert np.allclose(found.rows["value"], 2 * 2.0 / (1 + 3))
    assert "joined by their sums" in found.notes[0]
    per_token = measure(table, dataclasses.replace(joined, unit=Unit.NATS))
    assert np.allclose(per_token.rows["value"], 2.0 * math.log(2) * BYTES / 300)


def test_sets_without_sums_are_joined_by_the_mean() -> None:
    table = planted(effects={"uniform": 0.0}, noise=0.0, seed_noise=0.0)
    table.loc[table["eval_set"] == "bio", "bits_per_byte"] = 1.0
    table = table.assign(nats=np.nan, target_bytes=pd.array([pd.NA] * len(table), "Int64"))
    found = measure(table, dataclasses.replace(OPTIONS, by="", targets={"both": ("code", "bio")}))
    assert np.allclose(found.rows["value"], 1.5) and "mean" in found.notes[0]


@pytest.mark.parametrize(("column", "factor"), [("tokens", 0.5), ("params", 2.0)])
def test_unequal_budgets_are_refused_or_left_out_by_name(column: str, factor: float) -> None:
    table = planted()
    table.loc[table["run_id"] == "dsir-bio-2", column] *= factor
    with pytest.raises(
        UserError, match=r"dsir-bio-2 has .* instead of 400,000 parameters and 200,0"
    ):
        measure(table, OPTIONS)
    found = measure(table, dataclasses.replace(OPTIONS, unequal=Unequal.EXCLUDE))
    assert len(found.rows) == 17 and found.left_out["what"].tolist() == ["dsir-bio-2"]


def test_a_cut_last_batch_is_no_other_budget() -> None:
    table = planted()
    table.loc[table["run_id"] == "dsir-bio-2", "tokens"] *= 1.0005
    assert len(measure(table, OPTIONS).rows) == 18


def test_an_unfinished_run_has_fewer_tokens_and_is_refused() -> None:
    table = planted()
    table = table[~((table["run_id"] == "dsir-bio-2") & (table["step"] == 20))]
    with pytest.raises(UserError, match="dsir-bio-2 has"):
        measure(table, OPTIONS)


def longer(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with one more checkpoint of the uniform runs, 0.5 bits better."""
    more = table[(table["step"] == 20) & (table["factor.method"] == "uniform")]
    changed = more.assign(step=35, tokens=35e4, nats=more["nats"] - 0.5 * math.log(2) * BYTES)
    changed = changed.assign(bits_per_byte=np.nan, loss=np.nan)
    return tables.derive(tables.concat([table, changed]))


def test_each_run_is_compared_at_the_checkpoint_with_equal_tokens() -> None:
    table = longer(planted(noise=0.0, seed_noise=0.0))
    with pytest.raises(UserError, match="budgets differ"):
        measure(table, OPTIONS)
    found = measure(table, dataclasses.replace(OPTIONS, at=200_000.0)).rows
    assert np.allclose(found["value"][found["method"] == "uniform"], 2.0)
    earlier = measure(table, dataclasses.replace(OPTIONS, at=100_000.0)).rows
    assert np.allclose(earlier["value"][earlier["method"] == "uniform"], 3.0)
    near, far = (
        measure(planted(), dataclasses.replace(OPTIONS, at=at)).notes for at in (201_000.0, 1e12)
    )
    words = "compare.at = 1e+12: the nearest compared checkpoint has 2e+05 tokens."
    assert words in far and not any("compare.at" in note for note in near)


def test_a_run_that_ends_before_the_budget_is_refused() -> None:
    table = longer(planted())
    with pytest.raises(UserError, match="350,000 tokens"):
        measure(table, dataclasses.replace(OPTIONS, at=350_000.0))


def test_a_run_without_a_recorded_budget_is_left_out_by_name() -> None:
    table = planted().assign(flops=lambda t: t["step"] * 1e12)
    table.loc[table["run_id"] == "dsir-code-1", "flops"] = np.nan
    found = measure(table, dataclasses.replace(OPTIONS, budget=Budget.FLOPS, at=2e13))
    [left_out] = found.left_out.to_dict("records")
    assert left_out["what"] == "dsir-code-1" and "flops are not recorded" in left_out["reason"]
    assert "dsir-code-1" not in set(found.rows["run_id"])


def test_equal_flops_do_not_make_half_a_percent_more_parameters_equal() -> None:
    table = planted().assign(flops=lambda t: t["step"] * 1e12)
    table.loc[table["run_id"] == "dsir-code-1", "params"] *= 1.005
    for budget in Budget:
        with pytest.raises(UserError, match="budgets differ"):
            measure(table, dataclasses.replace(OPTIONS, budget=budget))


def test_equal_flops_count_what_selecting_the_tokens_cost() -> None:
    """20 steps and a reference worth 15 cost as much as 35 steps."""
    table = longer(planted(noise=0.0, seed_noise=0.0)).assign(flops=lambda t: t["step"] * 1e12)
    by_flops = dataclasses.replace(OPTIONS, budget=Budget.FLOPS)
    with pytest.raises(UserError, match=r"400,000 parameters and .*e\+13 FLOPs"):
        measure(table, by_flops)
    selective = table["factor.method"] != "uniform"
    table.loc[selective, "selection_flops"] = 15e12
    found = measure(table, by_flops).rows
    assert np.allclose(found["value"][found["method"] == "uniform"], 1.5)
    assert np.allclose(found["value"][found["method"] == "dsir"], 1.9)


def test_a_selection_of_unknown_cost_is_noted() -> None:
    table = planted().assign(flops=lambda t: t["step"] * 1e12, selection_flops=0.0)
    by_flops = dataclasses.replace(OPTIONS, budget=Budget.FLOPS)
    assert not measure(table, by_flops).notes
    free = table.assign(selection_flops=np.nan, token_selection="all")
    assert not measure(free, by_flops).notes
    table.loc[table["run_id"] == "dsir-code-1", "selection_flops"] = np.nan
    table["token_selection"] = "excess loss 60% of the batch"
    [note] = measure(table, by_flops).notes
    assert note.startswith("selection_flops of 1 run (dsir-code-1) is not recorded")


def test_budgets_that_are_not_recorded_are_noted() -> None:
    found = measure(planted().assign(params=np.nan), OPTIONS)
    assert "params of some runs are not recorded" in found.notes[0]


def test_another_factor_that_differs_is_noted() -> None:
    table = planted()
    table.loc[table["factor.method"] == "dsir", "learning_rate"] = 2e-3
    [note] = measure(table, OPTIONS).notes
    assert "also differ in the learning rate" in note and "0.002" in note


def test_two_runs_of_one_seed_are_refused() -> None:
    with pytest.raises(UserError, match=r"both dsir with seed 0 for code.*compare.by"):
        measure(planted(), dataclasses.replace(OPTIONS, by=""))


def test_runs_of_two_sizes_are_told_apart_by_where() -> None:
    small = planted().assign(**{"factor.size": "small"})
    large = planted(seed=1).assign(**{"factor.size": "large", "params": 8e5})
    both = tables.concat([small, large.assign(run_id="large-" + large["run_id"])])
    with pytest.raises(UserError, match="budgets differ"):
        measure(both, OPTIONS)
    found = measure(both, dataclasses.replace(OPTIONS, where={"factor.size": "small"}))
    pd.testing.assert_frame_equal(found.rows, measure(planted(), OPTIONS).rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": "factor.methd"}, "no column 'factor.methd'. Near names: .*factor.method"),
        ({"by": "factor.targt"}, "no column 'factor.targt'"),
        ({"targets": {"code": ("cod",)}}, "no set 'cod' .*Near names: bio, code"),
        ({"where": {"factor.seed": "seed-9"}}, "no run has a level"),
    ],
)
def test_wrong_names_are_one_line(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        measure(planted(), dataclasses.replace(OPTIONS, **change))  # type: ignore[arg-type]
    assert len(str(refused.value).splitlines()) == 1


def test_runs_of_another_target_and_without_a_level_are_left_out_by_name() -> None:
    table = planted(targets=("code", "bio"))
    table.loc[table["run_id"] == "uniform-any-0", "factor.method"] = pd.NA
    found = measure(table, dataclasses.replace(OPTIONS, targets={"code": ("code",)}))
    reasons = dict(found.left_out.to_numpy())
    assert "is empty" in reasons["uniform-any-0"]
    assert "was made for 'bio'" in reasons["oracle-bio-1"]
    assert set(found.rows["target"]) == {"code"}


def test_without_targets_every_set_is_one() -> None:
    table = planted(effects={"uniform": 0.0})
    assert set(measure(table, CompareOptions()).rows["target"]) == {"code", "bio"}


def test_an_empty_cell_of_by_counts_for_every_target() -> None:
    table = planted()
    table["factor.target"] = table["factor.target"].replace("any", pd.NA)
    assert len(measure(table, OPTIONS).rows) == 18


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by": "factor.target", "targets": {}}, "needs compare.targets"),
        ({"targets": {"code": ()}}, "has no sets"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"resamples": 0}, "at least 1"),
        ({"seed": -1}, "compare.seed"),
    ],
)
def test_wrong_options_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        CompareOptions(**change)  # type: ignore[arg-type]


def test_options_of_a_compared_selection_of_tokens_are_not_noted() -> None:
    table = planted()
    selective = table["factor.method"] != "uniform"
    rule = "excess loss 60% of the batch"
    table["token_selection"] = np.where(selective, rule, "all")
    table["option.objective.share"] = np.where(selective, 0.6, np.nan)
    table["option.objective.score"] = np.where(selective, "excess_loss", None)
    assert not measure(table, OPTIONS).notes
