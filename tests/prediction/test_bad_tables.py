"""Tables that lack something: one line each, the rest still predicted."""

import warnings

import numpy as np
import pandas as pd
import planted_runs
import pytest
from planted_runs import CHANCE

from lossline.errors import UserError
from lossline.prediction import PredictOptions, predict_table
from lossline.prediction.methods import METHODS
from lossline.prediction.results import Outcome, Predictions


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return planted_runs.table(checkpoints=4)


def predict(table: pd.DataFrame, **options) -> Predictions:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return predict_table(table, PredictOptions(**{"resamples": 5, **options}))


def rows_of(found: Predictions, task: str = "arc_easy") -> pd.DataFrame:
    rows = found.predictions[found.predictions["task"] == task].set_index("method")
    for row in rows.to_dict("records"):
        assert Outcome(row["status"]).has_number == np.isfinite(row["predicted"]), row
        assert row["reason"] or row["status"] == "predicted", row
        assert "\n" not in row["reason"]
    return rows


def both(table: pd.DataFrame, change) -> pd.DataFrame:
    """Return the table with a second task, piqa, whose rows are changed."""
    more = table[table["kind"] == "task"].assign(eval_set="piqa").reset_index(drop=True)
    return pd.concat([table, change(more)], ignore_index=True)


def test_a_task_below_chance_everywhere_has_no_number():
    random = np.random.default_rng(0)
    guess = {"arc_easy": lambda n, d: CHANCE - 0.01 + 0.004 * random.normal()}
    found = predict(planted_runs.table(checkpoints=4, tasks=guess))
    rows = rows_of(found)
    assert len(rows) == len(METHODS) and rows["status"].eq("not emerged").all()
    assert rows["predicted"].isna().all()
    assert any("arc_easy: the largest runs do no better than guessing" in n for n in found.notes)
    assert not found.points["emerged"].any()


def test_one_lucky_run_is_no_emergence():
    """Of many runs that guess, one lies 2 standard errors above chance."""
    random = np.random.default_rng(1)
    guess = {"arc_easy": lambda n, d: CHANCE + 0.0002 * random.normal() + 0.05 * (n < 1.2e8)}
    rows = rows_of(predict(planted_runs.table(tasks=guess)))
    assert rows["status"].eq("not emerged").all()


def test_a_number_below_chance_is_given_on_request():
    random = np.random.default_rng(0)
    guess = {"arc_easy": lambda n, d: CHANCE - 0.01 + 0.004 * random.normal()}
    table = planted_runs.table(checkpoints=4, tasks=guess)
    rows = rows_of(predict(table, below_chance="predict"))
    numbers = rows.loc[["fp", "gpt4", "lossline"], "predicted"]
    assert (numbers - CHANCE).abs().max() < 0.03


def test_one_size_leaves_laws_of_compute(table):
    one = planted_runs.runs(sizes=(1e9,), ratios=(2, 5, 10, 20, 40, 80, 160), target=False)
    found = predict(planted_runs.table(one, checkpoints=4))
    rows = rows_of(found)
    for name in ("direct_nd", "ladder", "gadre"):
        assert rows.loc[name, ["status", "reason"]].tolist() == [
            "too few runs",
            "all runs have the same size",
        ]
    for name in ("fp", "gpt4", "direct", "llama3", "lossline"):
        assert rows.loc[name, "status"] == "predicted", name
    assert any("all runs have one size" in note for note in found.notes)


def test_fewer_sizes_than_parameters_are_too_few_runs():
    few = planted_runs.runs(sizes=(1e8, 2e8, 4e8), ratios=(20.0,))
    rows = rows_of(predict(planted_runs.table(few, checkpoints=4)))
    assert rows.loc["ladder", "status"] == "too few runs"
    assert "3 usable points at 3 scales for 5 parameters" in rows.loc["ladder", "reason"]
    assert rows.loc[["fp", "flp", "lossline"], "status"].eq("predicted").all()


def test_two_runs_have_a_reason_per_method(table):
    two = planted_runs.runs(sizes=(1e8, 2e8), ratios=(20.0,), target=False)
    rows = rows_of(predict(planted_runs.table(two, checkpoints=4)))
    assert set(rows["status"]) == {"too few runs"}


def test_one_run_is_an_error():
    one = planted_runs.table([("only", 1e8, 1e9)])
    with pytest.raises(UserError, match="no group of runs has both a target and another run"):
        predict(one)


def test_an_unknown_chance_names_the_task_and_the_binding(table):
    renamed = table.assign(eval_set=table["eval_set"].replace("arc_easy", "riddles"))
    found = predict(renamed)
    rows = rows_of(found, "riddles")
    unknown = rows[rows["status"] == "no input"]
    assert set(unknown.index) == set(METHODS) - {"fp", "gpt4"}
    assert unknown["reason"].str.contains("predict.chance = {'riddles': 0.25}", regex=False).all()
    assert any("riddles: the accuracy of guessing is unknown" in note for note in found.notes)
    few = ("flp", "ladder")
    known = rows_of(predict(renamed, chance={"riddles": CHANCE}, methods=few), "riddles")
    named = predict(table, methods=few)
    np.testing.assert_allclose(known["predicted"], rows_of(named)["predicted"])


def test_a_task_in_percent_is_left_out_and_the_others_are_predicted(table):
    percent = both(table, lambda rows: rows.assign(accuracy=100 * rows["accuracy"]))
    found = predict(percent, methods=("fp", "ladder"))
    assert set(rows_of(found)["status"]) == {"predicted"}
    piqa = rows_of(found, "piqa")
    assert set(piqa["status"]) == {"no input"}
    assert piqa["reason"].str.contains("piqa: accuracy reaches .*: it is in percent").all()
    assert sum("in percent" in note for note in found.notes) == 1
    with pytest.raises(UserError, match=r"piqa: .* in percent\. Divide the column accuracy by 100"):
        predict(percent, tasks=("piqa",))


def test_a_table_without_compute_is_an_error(table):
    with pytest.raises(UserError, match="the table has no compute: neither flops nor params"):
        predict(table.assign(flops=np.nan, params=np.nan))
    few = ("fp", "flp")
    counted = predict(table.assign(flops=np.nan), methods=few)
    np.testing.assert_allclose(
        counted.predictions["predicted"], predict(table, methods=few).predictions["predicted"]
    )


def test_compute_without_sizes_leaves_laws_of_compute(table):
    rows = rows_of(predict(table.assign(params=np.nan)))
    assert (
        rows.loc[["fp", "gpt4", "direct", "flp", "llama3", "lossline"], "status"]
        .eq("predicted")
        .all()
    )
    assert rows.loc[["ladder", "gadre", "direct_nd"], "status"].eq("too few runs").all()


def test_a_table_without_validation_losses_keeps_other_routes(table):
    rows = rows_of(predict(table[table["kind"] == "task"].reset_index(drop=True)))
    for name in ("flp", "gadre"):
        assert rows.loc[name, ["status", "reason"]].tolist() == [
            "no input",
            "the table has no validation loss",
        ]
    assert rows.drop(["flp", "gadre"])["status"].eq("predicted").all()


def test_a_table_without_gold_losses_keeps_other_routes(table):
    rows = rows_of(predict(table.assign(bits_per_byte=np.nan)))
    for name in ("llama3", "ladder"):
        assert rows.loc[name, "status"] == "no input"
        assert rows.loc[name, "reason"] == "the table has no loss of the task's gold answers"
    assert rows.drop(["llama3", "ladder"])["status"].eq("predicted").all()


def test_empty_cells_are_left_out(table):
    holes = table.copy()
    task = np.flatnonzero(holes["kind"] == "task")
    holes.loc[task[::7], "accuracy"] = np.nan
    holes.loc[task[3::7], "bits_per_byte"] = np.nan
    holes.loc[np.flatnonzero(holes["eval_set"] == "c4")[::40], "loss"] = np.nan
    rows = rows_of(predict(holes))
    assert set(rows["status"]) == {"predicted"}
    assert rows["relative_error"].abs().max() < 0.3
    close = ["ladder", "lossline", "direct_nd"]
    whole = rows_of(predict(table, methods=tuple(close)))
    np.testing.assert_allclose(
        rows.loc[close, "predicted"], whole.loc[close, "predicted"], rtol=0.02
    )


def test_a_target_without_the_task_has_a_number_and_no_error(table):
    other = both(table, lambda rows: rows[rows["run_id"] != planted_runs.TARGET])
    rows = rows_of(predict(other, methods=("fp", "lossline")), "piqa")
    assert rows["predicted"].notna().all() and rows["actual"].isna().all()
    assert rows["relative_error"].isna().all()


def test_a_task_that_only_the_target_has_is_not_predicted(table):
    other = both(table, lambda rows: rows[rows["run_id"] == planted_runs.TARGET])
    found = predict(other)
    rows = rows_of(found, "piqa")
    assert len(rows) == len(METHODS) and not rows["predicted"].notna().any()
    assert rows_of(found)["predicted"].notna().all()


def test_runs_with_a_single_checkpoint_are_enough():
    found = predict(planted_runs.table(checkpoints=1))
    rows = rows_of(found)
    assert set(rows["status"]) == {"predicted"}
    assert abs(rows.loc["ladder", "relative_error"]) < 1e-3


def test_unknown_names_are_one_line_with_near_names(table):
    for options, message in (
        ({"targets": ("n=6.4e+9 r=20",)}, r"predict\.targets: the table has no run .*n=6.4e\+09"),
        ({"exclude": ("n=1e+8 r=10",)}, r"predict\.exclude: the table has no run .*n=1e\+08"),
        ({"tasks": ("arc_eazy",)}, r"predict\.tasks: no accuracy on arc_eazy .*arc_easy"),
        ({"validation_sets": ("c5",)}, r"predict\.validation_sets: .* set c5.*c4"),
        ({"family": "architecure"}, r"predict\.family: .*'architecure'.*architecture"),
        ({"group_by": ("tokeniser",)}, r"cannot group by 'tokeniser'.*tokenizer"),
        ({"points": ((1e9,),)}, r"predict\.points: .*not \(parameters, tokens\)"),
        ({"points": ((0, 1e9),)}, r"predict\.points: .*must be positive"),
        (
            {"targets": (planted_runs.TARGET,), "exclude": (planted_runs.TARGET,)},
            "in predict.targets and in predict.exclude",
        ),
    ):
        with pytest.raises(UserError, match=message) as error:
            predict(table, **options)
        assert "\n" not in str(error.value)


def test_a_table_without_tasks_says_what_to_do(table):
    with pytest.raises(UserError, match="no task with accuracy: there is nothing to predict"):
        predict(table[table["kind"] == "validation"].reset_index(drop=True))
    with pytest.raises(UserError, match="no row to use"):
        predict(table.assign(status="failed"))


def test_a_group_that_cannot_be_read_is_named_and_the_others_are_predicted(table):
    bad = table.assign(
        run_id="bad " + table["run_id"], pretraining_data="bad", accuracy=100 * table["accuracy"]
    )
    found = predict(pd.concat([table, bad], ignore_index=True), methods=("fp",))
    assert set(found.predictions["group"]) == {"llama, web, bpe"}
    assert any(
        note.startswith("llama, bad, bpe is left out: arc_easy: accuracy reaches")
        for note in found.notes
    )


def test_compute_alone_leaves_laws_of_compute(table):
    shuffled = table.sample(frac=1, random_state=0).reset_index(drop=True)
    rows = rows_of(predict(shuffled.assign(params=np.nan, tokens=np.nan)))
    assert rows.loc[["fp", "flp", "llama3", "lossline"], "status"].eq("predicted").all()
    assert rows.loc[["gadre", "direct_nd"], "status"].eq("too few runs").all()


@pytest.mark.parametrize("column", ["params", "tokens"])
def test_a_scale_of_zero_is_a_missing_one(table, column):
    first = table["run_id"] == table["run_id"].iloc[0]
    zero, missing = (
        predict(table.assign(**{column: table[column].mask(first, value)})).predictions
        for value in (0.0, np.nan)
    )
    assert zero["predicted"].notna().all()
    pd.testing.assert_frame_equal(zero, missing)


def test_infinite_compute_is_no_compute(table):
    last = table["run_id"] == planted_runs.TARGET
    infinite = table.assign(flops=table["flops"].mask(last, np.inf))
    pd.testing.assert_frame_equal(
        predict(infinite, methods=("fp",)).predictions,
        predict(table, methods=("fp",)).predictions,
    )


@pytest.mark.parametrize("point", [(np.inf, 1e9), (1e300, 1e300)])
def test_an_infinite_point_is_refused(table, point):
    with pytest.raises(UserError, match="must be positive, finite numbers"):
        predict(table, points=(point,))
