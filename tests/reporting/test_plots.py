import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("agg")

from lossline.errors import UserError
from lossline.lines.fitting import fit_line
from lossline.reporting import plot_against, plot_lines, plot_pairs
from lossline.tables.pairing import Pairing, Pairs
from tests.reporting import planted


@pytest.fixture(autouse=True)
def close_figures():
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def gids(ax, prefix):
    return [str(line.get_gid()) for line in ax.lines if str(line.get_gid()).startswith(prefix)]


def test_plot_lines_draws_one_line_per_group(table):
    results = planted.results()
    ax = plot_lines(results, x="wiki", y="hellaswag", unit="bits_per_byte")
    assert len(gids(ax, "line/")) == 6
    assert "bits per byte" in ax.get_xlabel()
    same = plot_lines(results.lines, table, x="wiki", y="hellaswag")
    assert len(gids(same, "line/")) == 6


def test_plot_lines_without_a_loss_table_is_refused():
    with pytest.raises(UserError, match="loss table"):
        plot_lines(planted.lines(), x="wiki", y="hellaswag")


def test_plot_pairs_draws_points_and_line_of_each_group():
    x = np.linspace(2.5, 4.0, 24)
    pairs = Pairs(
        x=x, y=0.9 * (x - 1.5) ** 1.05 + 1.2, runs=np.array([f"r{i % 8}" for i in range(24)]),
        params=np.full(24, 1e8), tokens=np.geomspace(1e9, 1e10, 24), flops=np.full(24, np.nan),
        how=Pairing.EQUAL_SCALE,
    )  # fmt: skip
    line = fit_line(pairs, x_set="own", y_set="own")
    ax = plot_pairs([(line, pairs)], names=["python"])
    points = next(item for item in ax.lines if item.get_gid() == "points/python")
    np.testing.assert_array_equal(points.get_ydata(), pairs.y)
    drawn = next(item for item in ax.lines if item.get_gid() == "line/python")
    np.testing.assert_allclose(drawn.get_ydata(), line.predict(np.asarray(drawn.get_xdata())))
    assert "R²" in ax.get_legend().get_texts()[0].get_text()


def test_plot_against_draws_points_curves_and_held_out_rows():
    frame = pd.DataFrame({"C": [1e18, 1e19, 1e20], "loss": [3.0, 2.8, 2.5], "data": "c4"})
    frame["big"] = frame["C"] > 5e19
    curve = pd.DataFrame({"C": np.geomspace(1e18, 1e20, 9), "loss": 2.8, "data": "c4"})
    ax = plot_against(frame, x="C", y="loss", by="data", curve=curve, held_out="big", log_x=True)
    assert len(next(i for i in ax.lines if i.get_gid() == "points/c4").get_xdata()) == 2
    assert len(next(i for i in ax.lines if i.get_gid() == "points/c4, held out").get_xdata()) == 1
    assert len(next(i for i in ax.lines if i.get_gid() == "line/c4").get_xdata()) == 9
    assert ax.get_xscale() == "log"
