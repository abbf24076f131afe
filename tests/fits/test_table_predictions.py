"""Tables of runs with mixtures get laws of mixtures; what these cannot use is named."""

import dataclasses

import numpy as np
import pandas as pd
import planted_mixture_table
import pytest

from lossline.errors import UserError
from lossline.fits.table_predictions import predict_runs
from lossline.fits.usable_runs import usable_runs
from lossline.mixtures.predictions import has_mixtures
from lossline.mixtures.runs import domains_of
from lossline.prediction import PredictOptions

QUICK = PredictOptions(resamples=5, methods=("lossline", "M1"))


@pytest.fixture(scope="module")
def table():
    return planted_mixture_table.table(code=(0.1, 0.2, 0.3, 0.4))


def test_largest_runs_of_all_mixtures_are_predicted(table):
    found = predict_runs(table, QUICK)
    rows = found.predictions[found.predictions["method"] == "lossline"]
    assert rows["target"].nunique() == 4 and {"wiki", "python", "mixed"} <= set(rows["task"])
    assert rows["relative_error"].abs().max() < 0.06


def test_accuracies_are_predicted_from_the_losses_of_all_domains(table):
    options = PredictOptions(resamples=5, methods=("lossline", "M4"), chance={"mixed": 0.25})
    rows = predict_runs(table, options).predictions
    rows = rows[rows["metric"] == "accuracy"]
    assert set(rows["task"]) == {"mixed (accuracy)"}
    assert rows["target"].nunique() == 4 and set(rows["method"]) == {"lossline", "flp_m"}
    ours = rows[rows["method"] == "lossline"]
    assert ours["relative_error"].abs().max() < 0.05
    assert (ours["low_90"] < ours["predicted"]).all() and (ours["high_90"] <= 1).all()
    assert rows.loc[rows["method"] == "flp_m", "reason"].str.startswith("median of 8 seeds").all()


def test_accuracy_without_chance_or_above_it_has_a_reason_and_no_number(table):
    unknown = predict_runs(table, QUICK).predictions.query("metric == 'accuracy'")
    assert set(unknown["status"]) == {"no input"} and unknown["predicted"].isna().all()
    assert unknown["reason"].str.contains("predict.chance = {'mixed': 0.25}", regex=False).all()
    guessing = table.assign(accuracy=np.where(table["accuracy"].notna(), 0.26, np.nan))
    options = PredictOptions(resamples=5, methods=("lossline",), chance={"mixed": 0.25})
    rows = predict_runs(guessing, options).predictions.query("metric == 'accuracy'")
    assert set(rows["status"]) == {"not emerged"} and rows["predicted"].isna().all()


def test_laws_of_scale_alone_are_used_on_request(table):
    options = PredictOptions(resamples=0, metric="bits_per_byte", group_by=())
    found = predict_runs(table, options, mixtures=False)
    assert set(found.predictions["task"]) == {"mixed"}


def test_run_whose_shares_do_not_sum_to_1_is_named_and_the_rest_predicted(table):
    broken = table.copy()
    run = "n=1e+07 code=0.4"
    broken.loc[broken["run_id"] == run, "share.web"] = 0.4
    found = predict_runs(broken, QUICK)
    assert found.notes[0].startswith(f"run {run}: its shares sum to 0.8, not to 1: it is left out")
    assert run not in set(found.points["run_id"])
    assert found.predictions["predicted"].notna().any()


def test_component_without_a_run_is_named_and_the_rest_predicted(table):
    found = predict_runs(table.assign(**{"share.books": 0.0}), QUICK)
    assert found.notes[0].startswith("component books: no run has a share above 0")
    assert found.predictions["predicted"].notna().any()


def test_sound_table_is_not_changed(table):
    same, notes = usable_runs(table)
    assert notes == [] and same.equals(table)
    rounded, notes = usable_runs(table.assign(**{"share.web": table["share.web"] + 0.004}))
    assert notes == [] and len(rounded) == len(table)
    other = table.copy()
    other.loc[:5, ["share.web", "share.code"]] = np.nan  # not trained on a mixture
    assert usable_runs(other)[1] == []


def test_counted_tokens_of_components_are_shares(table):
    tokens = {f"component_tokens.{name}": table[f"share.{name}"] * 1e9 for name in ("web", "code")}
    counted = table.drop(columns=["share.web", "share.code"]).assign(**tokens)
    assert has_mixtures(counted)
    one = counted.assign(**{"component_tokens.web": 7e8, "component_tokens.code": 3e8})
    one.loc[one.index[:3], "component_tokens.web"] *= 1.0001  # counts differ by chance
    assert not has_mixtures(one)


@pytest.mark.parametrize("option", ["tasks", "validation_sets"])
def test_set_that_the_table_lacks_is_an_error(table, option):
    options = PredictOptions(resamples=0, methods=("M1",), **{option: ("mixd", "wiki", "mixed")})
    with pytest.raises(UserError, match=f"predict.{option}: the table has no .* set 'mixd'"):
        predict_runs(table, options)


def test_emergence_decides_which_checkpoints_the_network_uses(table):
    def predicted(emergence):
        options = PredictOptions(
            resamples=0, methods=("M4",), chance={"mixed": 0.25}, emergence=emergence
        )
        rows = predict_runs(table, options).predictions
        return rows.loc[rows["metric"] == "accuracy", "predicted"].to_numpy(float)

    assert not np.allclose(predicted(0.0), predicted(0.38))


def test_decisions_compare_different_mixtures_of_one_scale_only(table):
    def with_twin(**changes):
        twin = table[table["run_id"] == "n=8e+07 code=0.2"].copy()
        twin = twin.assign(run_id="twin", **changes)
        for unit in ("loss", "bits_per_byte"):
            twin[unit] = twin[unit] * 1.01
        both = pd.concat([table, twin], ignore_index=True)
        names = tuple(run for run in both["run_id"].unique() if run[:3] in ("n=8", "twi"))
        return predict_runs(both, dataclasses.replace(QUICK, targets=names)).decisions

    alone = predict_runs(table, QUICK).decisions
    assert set(alone["pairs"]) == {6}  # of four mixtures
    assert set(with_twin()["pairs"]) == {9}  # the twin has one of the four mixtures
    longer = table.loc[table["run_id"] == "n=8e+07 code=0.2", "tokens"] * 3
    assert set(with_twin(tokens=longer)["pairs"]) == {6}


def test_target_within_the_runs_is_called_an_interpolation(table):
    found = predict_runs(table, dataclasses.replace(QUICK, targets=("n=2e+07 code=0.2",)))
    rows = found.predictions[found.predictions["metric"] != "accuracy"]
    assert set(rows["status"]) == {"interpolated"}
    assert rows["reason"].str.contains("an interpolation").all()


def test_shares_in_percent_everywhere_are_said(table):
    percent = table.assign(**{n: 100 * table[n] for n in ("share.web", "share.code")})
    with pytest.raises(UserError, match="its shares sum to 100, not to 1: it is left out"):
        predict_runs(percent, QUICK)


def test_component_that_a_point_does_not_name_has_a_share_of_0(table):
    options = PredictOptions(resamples=0, methods=("M2",), points=((1e8, 2e9, {"web": 1.0}),))
    rows = predict_runs(table, options).predictions.query("metric != 'accuracy'")
    assert set(rows["reason"]) == {"M2 is not defined for a share of 0"}


def test_run_with_a_negative_share_is_named_and_the_rest_predicted(table):
    broken, run = table.copy(), "n=1e+07 code=0.4"
    broken.loc[broken["run_id"] == run, ["share.web", "share.code"]] = (1.5, -0.5)
    found = predict_runs(broken, QUICK)
    assert found.notes[0].startswith(f"run {run}: a share is negative: it is left out")
    assert run not in set(found.points["run_id"])


def test_order_of_rows_changes_no_digit(table):
    options = PredictOptions(resamples=5, methods=("lossline", "additive"))
    shuffled = table.sample(frac=1, random_state=1).reset_index(drop=True)
    first, second = (predict_runs(rows, options).predictions for rows in (table, shuffled))
    pd.testing.assert_frame_equal(first, second, rtol=0, atol=0)


def test_point_with_shares_needs_runs_with_mixtures(table):
    options = PredictOptions(metric="bits_per_byte", points=((1e9, 1e10, {"web": 1.0}),))
    with pytest.raises(UserError, match="has shares, but these runs are predicted by laws of"):
        predict_runs(table, options, mixtures=False)


def test_accuracies_follow_from_the_chosen_validation_sets(table):
    options = PredictOptions(
        resamples=0, methods=("lossline",), chance={"mixed": 0.25}, validation_sets=("wiki",)
    )
    rows = predict_runs(table, options).predictions
    assert set(rows["task"]) == {"wiki", "mixed", "mixed (accuracy)"}
    assert rows["predicted"].notna().all()


def test_optimum_and_predictions_use_one_unit_of_a_domain(table):
    nats = table.copy()
    nats.loc[nats["eval_set"] == "mixed", "loss"] = nats["bits_per_byte"]
    nats["bits_per_byte"] = np.nan
    assert domains_of(nats) == [("python", "loss"), ("wiki", "loss"), ("mixed", "loss")]
    found = predict_runs(nats, QUICK).predictions
    assert set(found.loc[found["metric"] == "loss", "task"]) == {"python", "wiki", "mixed"}
