"""The report of predictions shows every task, method and target, and escapes what a table says."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from prediction import planted_runs

from lossline.errors import UserError
from lossline.fits.prediction_numbers import errors_by_method
from lossline.prediction import PredictOptions, predict_table
from lossline.reporting import predictions
from lossline.reporting.prediction_charts import backtest_chart, measured_chart, task_panels
from lossline.reporting.predictions import write_prediction_report

TASKS = {
    "arc_easy": lambda n, d: planted_runs.score(planted_runs.gold_loss(n, d)),
    "mmlu": lambda n, d: 0.23,
}
SCORED = "actual == actual and predicted == predicted"
SPY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def found():
    models = planted_runs.runs()
    models[0] = (SPY, *models[0][1:])
    table = planted_runs.table(models, checkpoints=4, tasks=TASKS, noise=0.003)
    options = PredictOptions(
        resamples=10, methods=("lossline", "fp", "flp"), targets=(planted_runs.TARGET,),
        points=((1.3e10, 2.6e11),),
    )  # fmt: skip
    return predict_table(table, options)


def gids(ax, prefix: str) -> list[str]:
    artists = [*ax.lines, *ax.collections]
    return [str(a.get_gid()) for a in artists if str(a.get_gid()).startswith(prefix)]


def test_each_panel_has_points_curves_band_and_targets(found):
    figure = task_panels(found, "", ["arc_easy", "mmlu"])
    easy, hard = figure.axes[:2]
    assert [ax.get_title(loc="left") for ax in (easy, hard)] == ["arc_easy", "mmlu"]
    fitted = found.curves[found.curves["task"] == "arc_easy"]["method"].unique()
    assert sorted(gids(easy, "curve/")) == sorted(f"curve/{name}" for name in fitted)
    assert len(fitted) >= 2 and gids(easy, "band/") == ["band/lossline"]
    assert gids(easy, "actual/") == [f"actual/{planted_runs.TARGET}"]
    assert len(gids(easy, "target/")) == 2  # the projection has no star
    assert not [gid for gid in gids(hard, "points/") if "/emerged" in gid]
    assert [gid for gid in gids(easy, "points/") if "/emerged" in gid]
    assert [gid for gid in gids(easy, "points/") if "/held_out" in gid]


def test_every_checkpoint_and_target_is_within_the_panel(found):
    ax = task_panels(found, "", ["arc_easy"]).axes[0]
    rows = found.predictions.query("method == 'lossline' and task == 'arc_easy'")
    low, high = ax.get_ylim()
    assert low <= rows["low_90"].min() and rows["high_90"].max() <= high
    drawn = np.concatenate(
        [line.get_xdata() for line in ax.lines if str(line.get_gid()).startswith("points/")]
    )
    assert set(found.points.query("task == 'arc_easy' and final")["flops"]) <= set(drawn)


def test_backtests_show_errors_and_coverage_of_each_method(found):
    left, right = backtest_chart(found).axes[:2]
    names = set(found.backtest.loc[found.backtest["predicted"].notna(), "method"])
    assert {gid.removeprefix("median/") for gid in gids(left, "median/")} == names
    assert {gid.removeprefix("coverage/") for gid in gids(right, "coverage/")} == names


def test_measured_scores_and_errors_of_all_methods_are_drawn(found):
    left, right = measured_chart(found).axes[:2]
    assert gids(left, "scores/") == ["scores/accuracy"]
    count = sum(len(line.get_xdata()) for line in left.lines if line.get_gid() == "scores/accuracy")
    assert count == len(found.predictions.query(f"method == 'lossline' and {SCORED}"))
    compared = errors_by_method(found).query("compared")["method"]
    assert sorted(gids(right, "errors/")) == sorted(f"errors/{name}" for name in compared)


def test_page_has_every_section_and_escapes_names(found, tmp_path):
    page = write_prediction_report(found, tmp_path, provenance={"command": "predict", "table": "t"})
    html = page.read_text()
    for anchor in ("predictions", "tasks", "methods", "backtests", "stages", "influence", "making"):
        assert f'id="{anchor}"' in html, anchor
    assert SPY not in html
    assert "<h2>Summary</h2>" in html and "Verdict" not in html
    assert html.count("data:image/png;base64,") == 3
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {
        "tasks.png", "backtests.png", "errors.png",
    }  # fmt: skip


def test_page_without_target_or_backtest_is_written(tmp_path):
    models = [(f"d={d:g}", 1e8, d) for d in (1e9, 2e9, 4e9)]
    table = planted_runs.table(models, checkpoints=3)
    options = PredictOptions(resamples=0, methods=("fp",), points=((1e9, 2e10),))
    found = predict_table(table, options)
    html = write_prediction_report(found, tmp_path).read_text()
    assert "Too few runs for a backtest" in html
    assert "No run was left out: there are no errors." in html


def test_page_of_something_else_is_never_replaced(found, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(UserError, match="was not written by lossline"):
        write_prediction_report(found, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_groups_have_a_figure_each(found, tmp_path):
    def twice(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([frame.assign(group=name) for name in ("llama", "mamba")])

    frames = ("predictions", "backtest", "influence", "points", "curves", "stages")
    both = dataclasses.replace(found, **{name: twice(getattr(found, name)) for name in frames})
    html = write_prediction_report(both, tmp_path).read_text()
    assert "Scores against compute: llama" in html and "Scores against compute: mamba" in html
    assert (tmp_path / "figures" / "tasks-1.png").exists()


def test_default_without_a_number_is_said_and_not_in_the_legend():
    table = planted_runs.table(checkpoints=4)
    unknown = table.assign(eval_set=table["eval_set"].replace({"arc_easy": "riddles"}))
    options = PredictOptions(methods=("lossline", "fp"), resamples=5)
    found = predict_table(unknown, options)
    left = measured_chart(found).axes[0]
    assert [text.get_text() for text in left.texts] == ["lossline: no number"]
    figure = task_panels(found, "", ["riddles"])
    words = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert "fp" in words and "lossline" not in words and "90% band" not in words


@pytest.mark.parametrize(("factor", "text"), [(0.268, "0.27×"), (231.4, "230×"), (2.7, "2.7×")])
def test_factors_are_plain_numbers(factor, text):
    assert predictions._times(factor) == text


def test_one_wild_error_does_not_hide_the_lines(found):
    wild = found.backtest.assign(relative_error=40.0)
    backtest = pd.concat([wild, *[found.backtest] * 24], ignore_index=True)  # 4% are wild
    left = backtest_chart(dataclasses.replace(found, backtest=backtest)).axes[0]
    lines = [line for line in left.lines if str(line.get_gid()).startswith("median/")]
    highest = max(max(line.get_ydata()) for line in lines)
    assert highest < left.get_ylim()[1] < 4000


def test_titles_and_ticks_of_four_columns_do_not_overlap(found):
    tasks = [f"bigbench_a_very_long_name_of_a_task_{n}" for n in range(12)]
    easy = found.points.query("task == 'arc_easy'")
    points = pd.concat([easy.assign(task=task) for task in tasks])
    points.loc[points.index[::2], "flops"] *= 1e-4  # eight decades
    figure = task_panels(dataclasses.replace(found, points=points), "", tasks)
    figure.canvas.draw()
    first, second = figure.axes[:2]
    title = next(t for t in first.get_children() if getattr(t, "get_text", str)().startswith("big"))
    assert title.get_window_extent().x1 < second.get_window_extent().x0
    ticks = [t.get_window_extent() for t in figure.axes[8].get_xticklabels() if t.get_text()]
    inside = [box for box in ticks if box.x1 > figure.axes[8].get_window_extent().x0]
    assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(inside))
