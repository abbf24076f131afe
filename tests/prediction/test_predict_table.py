"""From a planted loss table to predictions, projections, decisions and a predictor in a file."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import planted_runs
import pytest

from lossline.errors import UserError
from lossline.prediction import PredictOptions, load_predictor, predict_table
from lossline.prediction.methods import METHODS
from lossline.prediction.results import (
    BACKTEST_COLUMNS,
    CURVE_COLUMNS,
    DECISION_COLUMNS,
    INFLUENCE_COLUMNS,
    POINT_COLUMNS,
    PREDICTION_COLUMNS,
    STAGE_COLUMNS,
)
from lossline.tables.frames import complete

BELOW = "n=1.6e+09 r=40"  # the run of most compute below the target


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return planted_runs.table(checkpoints=6, noise=0.003)


@pytest.fixture(scope="module")
def found(table):
    return predict_table(table, PredictOptions(resamples=40))


def predict(table: pd.DataFrame, *methods: str, **options) -> pd.DataFrame:
    """Return predictions without resamples, of FP unless methods are named."""
    options = {"methods": methods or ("fp",), "resamples": 0, **options}
    return predict_table(table, PredictOptions(**options)).predictions


def test_every_part_has_its_columns_and_every_method_a_row(found):
    for part, columns in (
        ("predictions", PREDICTION_COLUMNS),
        ("backtest", BACKTEST_COLUMNS),
        ("influence", INFLUENCE_COLUMNS),
        ("points", POINT_COLUMNS),
        ("curves", CURVE_COLUMNS),
        ("stages", STAGE_COLUMNS),
        ("decisions", DECISION_COLUMNS),
    ):
        assert list(getattr(found, part).columns) == list(columns), part
    assert list(found.predictions["method"]) == list(METHODS)
    assert found.default == "lossline"


def test_the_default_target_is_the_run_of_most_compute_and_is_not_fitted(found, table):
    rows = found.predictions
    assert set(rows["target"]) == {planted_runs.TARGET} and set(rows["kind"]) == {"prediction"}
    assert set(rows["status"]) == {"predicted"}
    actual = table[(table["run_id"] == planted_runs.TARGET) & (table["kind"] == "task")]
    assert set(rows["actual"]) == {actual["accuracy"].iloc[-1]}
    np.testing.assert_allclose(rows["relative_error"], rows["predicted"] / rows["actual"] - 1)
    ladder = table[table["run_id"] == BELOW]["flops"].max()
    np.testing.assert_allclose(rows["extrapolation"], actual["flops"].max() / ladder)
    changed = table.copy()
    changed.loc[(table["run_id"] == planted_runs.TARGET), ["accuracy", "loss"]] = 0.5
    again = predict(changed, *METHODS)
    np.testing.assert_allclose(again["predicted"], rows["predicted"])
    held_out = found.points[found.points["held_out"]]
    assert set(held_out["run_id"]) == {planted_runs.TARGET}


def test_targets_exclude_and_above_flops_choose_runs(table):
    some = predict(table, targets=(BELOW, planted_runs.TARGET))
    assert list(some["target"]) == [BELOW, planted_runs.TARGET]
    cut = 6 * 1.6e9 * 1.6e9 * 39
    above = predict(table, above_flops=cut)
    pd.testing.assert_frame_equal(above, some)
    excluded = predict(table, exclude=(BELOW,))
    dropped = predict(table[table["run_id"] != BELOW].reset_index(drop=True))
    pd.testing.assert_frame_equal(excluded, dropped)
    assert excluded["predicted"].iloc[0] != predict(table)["predicted"].iloc[0]


def test_points_are_projections_fitted_to_all_runs(table):
    rows = predict(table, "fp", "ladder", points=((6.4e9, 1.28e11), (1e11, 2e12)))
    assert set(rows["kind"]) == {"projection"} and rows["actual"].isna().all()
    assert set(rows["target"]) == {
        "6.4e+09 parameters, 1.28e+11 tokens",
        "1e+11 parameters, 2e+12 tokens",
    }
    at_run = rows[rows["params"] == 6.4e9]
    assert set(at_run["status"]) == {"interpolated"}
    assert at_run["reason"].str.contains("interpolation").all()
    far = rows[rows["params"] == 1e11]
    np.testing.assert_allclose(far["flops"], 6 * 1e11 * 2e12)
    truth = planted_runs.score(planted_runs.gold_loss(1e11, 2e12))
    ladder = far.loc[far["method"] == "ladder", "predicted"].iloc[0]
    assert ladder == pytest.approx(truth, rel=0.05)


def test_projections_count_flops_as_the_table_does(table):
    counted = table.assign(flops=1.25 * table["flops"])
    (row,) = predict(counted, points=((1e11, 2e12),)).to_dict("records")
    assert row["flops"] == pytest.approx(1.25 * 6 * 1e11 * 2e12)


def test_targets_and_points_go_together(table):
    rows = predict(table, targets=(planted_runs.TARGET,), points=((1e11, 2e12),))
    assert list(rows["kind"]) == ["prediction", "projection"]


def test_an_interpolation_is_said(table):
    rows = predict(table, *METHODS, targets=("n=6.3e+08 r=10",))
    assert set(rows["status"]) == {"interpolated"}
    assert rows["reason"].str.contains("within the compute of the runs").all()
    assert rows.loc[rows["method"] == "ladder", "relative_error"].abs().iloc[0] < 0.02


def test_losses_are_predicted_in_their_own_metric(table):
    rows = predict_table(table, PredictOptions(metric="bits_per_byte", resamples=20)).predictions
    ours = rows[rows["method"] == "lossline"].iloc[0]
    assert ours["metric"] == "bits_per_byte"
    assert ours["predicted"] == pytest.approx(planted_runs.gold_loss(6.4e9, 1.28e11), rel=0.03)
    assert ours["low_90"] < ours["predicted"] < ours["high_90"]


def test_a_predictor_from_json_predicts_the_same(found, table, tmp_path):
    path = tmp_path / "predictor.json"
    path.write_text(json.dumps(found.predictor))  # fails on what is not JSON
    target = found.predictions.iloc[0]
    for source in (path, str(path), found.predictor):
        again = load_predictor(source).predict(target["params"], target["tokens"])
        one = found.predictions.set_index("method")
        for column in ("extrapolation", "predicted", "low_50", "low_90", "high_80", "high_90"):
            pd.testing.assert_series_equal(again.set_index("method")[column], one[column])


def test_something_else_is_no_predictor(tmp_path):
    headless = '{"what": "predictor of lossline.predict", "version": 1}'
    for text in ("", "[1]", '{"what": "a report"}', headless):
        path = tmp_path / "other.json"
        path.write_text(text)
        with pytest.raises(UserError, match=r"other\.json.*predict"):
            load_predictor(path)
    with pytest.raises(UserError, match="the mapping: not a predictor"):
        load_predictor({"groups": []})
    with pytest.raises(UserError, match="cannot be read"):
        load_predictor(tmp_path / "missing.json")


def test_influence_is_the_effect_of_leaving_out_each_size(found, table):
    rows = found.influence
    assert list(rows["left_out"]) == [f"{n:.3g} parameters" for n in planted_runs.SIZES]
    assert set(rows["runs"]) == {2}
    without = table[table["params"] != 1e8].reset_index(drop=True)
    alone = predict(without, "lossline")["predicted"].iloc[0]
    assert rows["predicted"].iloc[0] == pytest.approx(alone)
    base = found.predictions.set_index("method").loc["lossline", "predicted"]
    np.testing.assert_allclose(rows["change"], rows["predicted"] - base)


def test_recipes_are_groups_and_decisions_call_the_better_one():
    def recipe(name: str, shift: float, runs: list) -> pd.DataFrame:
        task = {"arc_easy": lambda n, d: planted_runs.score(planted_runs.gold_loss(n, d) - shift)}
        named = [(f"{name} {run}", n, d) for run, n, d in runs]
        return planted_runs.table(named, checkpoints=4, tasks=task, pretraining_data=name)

    both = pd.concat(
        [recipe("good", 0.05, planted_runs.runs()), recipe("plain", 0.0, planted_runs.runs())],
        ignore_index=True,
    )
    found = predict_table(both, PredictOptions(methods=("fp", "direct"), resamples=0))
    assert set(found.predictions["group"]) == {"llama, good, bpe", "llama, plain, bpe"}
    assert found.predictions.groupby("group").size().tolist() == [2, 2]
    for row in found.decisions.to_dict("records"):
        assert (row["pairs"], row["right"], row["accuracy"]) == (1, 1, 1.0)
        assert row["single_scale_accuracy"] == 1.0
    # Worse at the largest fitted scale, better at the target: single-scale ranking is wrong.
    good = both["pretraining_data"] == "good"
    turned = both.copy()
    last = good & both["run_id"].str.contains("n=1.6e+09", regex=False) & (both["kind"] == "task")
    turned.loc[last, "accuracy"] -= 0.1
    decided = predict_table(turned, PredictOptions(methods=("direct",), resamples=0)).decisions
    assert decided["single_scale_accuracy"].iloc[0] == 0.0
    # A group without a target of its own is left out, and said.
    alone = recipe("lonely", 0.0, [("one", 1e9, 2e10)])
    more = predict_table(
        pd.concat([both, alone], ignore_index=True), PredictOptions(methods=("fp",), resamples=0)
    )
    assert any(note.startswith("llama, lonely, bpe is left out") for note in more.notes)
    assert len(more.predictions) == 2


def test_outliers_and_open_parameters_are_named():
    """One rung of twelve is off its law; all runs at one D/N leave E, alpha and beta open."""
    sizes = np.geomspace(1e8, 3.2e9, 12)
    runs = planted_runs.runs(sizes, ratios=(20.0,))
    table = planted_runs.table(runs, checkpoints=3, noise=0.001)
    bad = table["run_id"] == runs[5][0]
    table.loc[bad, ["loss", "bits_per_byte"]] *= 1.04
    stages = predict_table(table, PredictOptions(methods=("ladder", "llama3"), resamples=0)).stages
    law = stages[(stages["method"] == "ladder") & stages["stage"].str.startswith("loss")].iloc[0]
    assert law["outliers"] == runs[5][0]
    assert law["flatness"] > 0.9
    assert law["weakest"] in ("log_A", "log_B", "log_E", "alpha", "beta")
    power = stages[(stages["method"] == "llama3") & stages["stage"].str.startswith("loss")].iloc[0]
    assert power["flatness"] < 0.05
    clean = planted_runs.table(runs, checkpoints=3)
    none = predict_table(clean, PredictOptions(methods=("ladder",), resamples=0)).stages
    assert not any(none["outliers"])


def test_a_curve_ends_at_the_target(found):
    curve = found.curves[found.curves["method"] == "lossline"].iloc[-1]
    row = found.predictions.set_index("method").loc["lossline"]
    for column in ("flops", "predicted", "low_90", "high_90"):
        assert curve[column] == pytest.approx(row[column])
    others = found.curves[found.curves["method"] == "fp"]
    assert others["low_90"].isna().all() and others["predicted"].notna().all()


def test_predictions_leave_continued_runs_out_and_say_so():
    table = planted_runs.table(checkpoints=4, noise=0.003)
    options = PredictOptions(methods=("fp",), resamples=0)
    copy = table[table["run_id"] == planted_runs.TARGET].assign(run_id="more")
    copy = copy.assign(flops=copy["flops"] * 9, accuracy=0.99)
    mixed = pd.concat([table, complete(copy).assign(start_run="base", start_step=1)])
    plain, found = predict_table(table, options), predict_table(mixed, options)
    assert found.predictions.equals(plain.predictions)
    assert found.notes[0].startswith("Left out of all laws of scale: 1 run (more)")
    with pytest.raises(UserError, match=r"predict.targets: run 'more' started from another run"):
        predict_table(mixed, replace(options, targets=("more",)))
    with pytest.raises(UserError, match=r"no row to use. Left out of all laws of scale"):
        predict_table(mixed[mixed["run_id"] == "more"], options)
