"""What the summary says of predictions: errors on common scores, coverage, influence, reasons."""

import pandas as pd
import pytest

from lossline.fits.prediction_numbers import (
    coverage,
    errors_by_method,
    largest_changes,
    outlier_runs,
)
from lossline.fits.prediction_summary import summary
from lossline.prediction.results import (
    BACKTEST_COLUMNS,
    CURVE_COLUMNS,
    DECISION_COLUMNS,
    INFLUENCE_COLUMNS,
    POINT_COLUMNS,
    PREDICTION_COLUMNS,
    STAGE_COLUMNS,
    Predictions,
)

FRAMES = {
    "predictions": PREDICTION_COLUMNS,
    "backtest": BACKTEST_COLUMNS,
    "influence": INFLUENCE_COLUMNS,
    "points": POINT_COLUMNS,
    "curves": CURVE_COLUMNS,
    "stages": STAGE_COLUMNS,
    "decisions": DECISION_COLUMNS,
}


def predictions(**rows: list[dict]) -> Predictions:
    """Return predictions whose frames have the given rows, and no others."""
    frames = {name: pd.DataFrame(rows.get(name, []), columns=list(c)) for name, c in FRAMES.items()}
    return Predictions(default="ours", **frames)


def scored(method: str, task: str, predicted: float, **changes) -> dict:
    row = {
        "group": "", "method": method, "task": task, "metric": "accuracy", "target": "big",
        "kind": "prediction", "predicted": predicted, "low_90": predicted - 0.1,
        "high_90": predicted + 0.1, "actual": 0.5, "relative_error": predicted / 0.5 - 1,
        "status": "predicted", "reason": "",
    }  # fmt: skip
    return row | changes


def refused(method: str, task: str) -> dict:
    numbers = dict.fromkeys(("predicted", "low_90", "high_90", "relative_error"))
    return scored(method, task, 0.5) | numbers | {"status": "not emerged", "reason": "at chance"}


def test_methods_are_compared_on_the_scores_that_all_predicted():
    rows = [scored("ours", task, 0.55) for task in "abcd"]
    rows += [scored("easy", "a", 0.5), scored("easy", "b", 0.5), refused("easy", "c")]
    rows += [scored("rare", "d", 0.5), *[refused("rare", task) for task in "abc"]]
    rows[3] = scored("ours", "d", 1.0)
    errors = errors_by_method(predictions(predictions=rows)).set_index("method")
    assert next(iter(errors.index)) == "ours"
    assert errors.loc["ours", "mean"] == pytest.approx(0.1)  # not of d, which easy lacks
    assert errors.loc["easy", "mean"] == 0 and errors.loc["easy", "common"] == 2
    assert errors["compared"].to_dict() == {"ours": True, "easy": True, "rare": False}


def test_coverage_counts_measurements_within_their_intervals():
    limits = {"low_50": 0.48, "high_50": 0.49, "low_80": 0.4, "high_80": 0.6}
    tests = [scored("ours", "a", 0.5, **limits), scored("ours", "a", 0.8, **limits)]
    tests.append(scored("ours", "a", 0.5, low_90=None, high_90=None, low_80=None, low_50=None))
    row = coverage(predictions(backtest=tests)).iloc[0]
    assert row["measurements"] == 3
    assert (row["within_50"], row["within_80"], row["within_90"]) == (0.0, 1.0, 0.5)


def test_largest_change_of_each_size_is_found():
    def change(size, task, value):
        return {"group": "", "left_out": size, "runs": 2, "task": task, "target": "big",
                "predicted": 0.5, "change": value}  # fmt: skip

    rows = [change("1e8", "a", 0.01), change("1e8", "b", -0.2), change("2e8", "a", None)]
    found = predictions(influence=rows)
    assert largest_changes(found)["change"].tolist()[0] == -0.2
    said = summary(found)
    assert "- 1e8 (2 runs): -0.200 (b, big)" in said
    assert "- 2e8 (2 runs): no prediction is left" in said


def test_summary_keeps_predictions_and_projections_apart_and_names_reasons():
    rows = [scored("ours", "a", 0.55), refused("ours", "b")]
    point = {"kind": "projection", "target": "7B", "actual": None, "relative_error": None}
    rows.append(scored("ours", "a", 0.7, **point))
    lines = summary(predictions(predictions=rows)).splitlines()
    first, second = (next(i for i, line in enumerate(lines) if line.startswith(kind))
                     for kind in ("Prediction of", "Projection of"))  # fmt: skip
    assert lines[first + 2].split() == ["a", "big", "0.550", "[0.450,", "0.650]", "0.500", "+10.0%"]
    assert lines[second + 2].split() == ["a", "7B", "0.700", "[0.600,", "0.800]"]
    assert lines.count("- b (big): not emerged: at chance") == 1


def test_groups_are_named_only_if_there_are_several():
    one = summary(predictions(predictions=[scored("ours", "a", 0.55, group="llama")]))
    assert "llama" not in one
    two = [scored("ours", "a", 0.55, group=name) for name in ("llama", "mamba")]
    assert "llama" in summary(predictions(predictions=two))


def test_outlier_runs_of_the_default_method_are_counted():
    rows = [{"method": "ours", "outliers": "x, y"}, {"method": "ours", "outliers": "x"},
            {"method": "theirs", "outliers": "z"}, {"method": "ours", "outliers": ""}]  # fmt: skip
    assert outlier_runs(predictions(stages=rows)) == {"x": 2, "y": 1}
