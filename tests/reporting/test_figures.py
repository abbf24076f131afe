import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.lines.fitting import Line
from lossline.reporting import figures
from lossline.reporting.appearance import Appearance
from lossline.reporting.points import Losses, eval_sets, paired
from lossline.tables.schema import Unit
from tests.reporting import planted


def artists(figure_or_axes, prefix):
    found = figure_or_axes.findobj(lambda artist: str(artist.get_gid() or "").startswith(prefix))
    return {artist.get_gid(): artist for artist in found}


def png(figure) -> bytes:
    buffer = io.BytesIO()
    with figures.publication_style():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def test_points_join_by_checkpoint_and_mark_the_last(table):
    frame = paired(table, "wiki", "hellaswag")
    assert len(frame) == table.groupby(["run_id", "step"]).ngroups
    assert frame["final"].sum() == table["run_id"].nunique()
    row = frame.iloc[17]
    truth = table[(table["run_id"] == row["run_id"]) & (table["step"] == row["step"])].set_index(
        "eval_set"
    )
    assert row["x"] == truth.loc["wiki", "loss"]
    assert row["y"] == truth.loc["hellaswag", "loss"]


def test_excluded_and_failed_rows_are_not_drawn(table):
    changed = table.copy()
    victim = (changed["run_id"] == "run-003") & (changed["eval_set"] == "wiki")
    changed.loc[victim, "status"] = "excluded"
    assert "run-003" not in set(paired(changed, "wiki", "legal")["run_id"])


def test_unknown_set_is_named(table):
    with pytest.raises(UserError, match=r"'wikki'.*hellaswag"):
        paired(table, "wikki", "legal")


def test_panel_draws_every_point_once_in_the_color_of_its_data(table, appearance):
    figure = figures.overview(
        Losses(table), (), appearance, x="wiki", y="hellaswag", units=[Unit.NATS]
    )
    drawn = artists(figure.axes[0], "points/")
    total = sum(len(artist.get_xdata()) for artist in drawn.values())
    assert total == len(paired(table, "wiki", "hellaswag"))
    for gid, artist in drawn.items():
        _, data, architecture, kind, _ = gid.split("/")
        assert artist.get_color() == appearance.color(data)
        assert artist.get_marker() == appearance.marker(architecture)
        assert (artist.get_markerfacecolor() == "white") == (kind == "tokenizer")
        assert (artist.get_fillstyle() == "left") == (kind == "optimization")


@pytest.mark.parametrize("unit", list(Unit))
def test_lines_and_bands_are_what_the_fit_predicts(table, appearance, curves, unit):
    figure = figures.loss_grid(
        Losses(table), curves, appearance, x="wiki", ys=["legal", "python"], unit=unit
    )
    chosen = [c for c in curves if c.unit is unit and c.line.y_set == "python"]
    ax = figure.axes[1]
    lines, bands = artists(ax, "line/"), artists(ax, "band/")
    assert set(lines) == {f"line/{curve.name}" for curve in chosen}
    for curve in chosen:
        x, y = lines[f"line/{curve.name}"].get_data()
        np.testing.assert_allclose(y, curve.line.predict(x))
        assert (x[0], x[-1]) == curve.domain
        low, high = curve.line.band(np.asarray(x), 0.9)
        outline = bands[f"band/{curve.name}"].get_paths()[0].vertices
        assert outline[:, 1].min() == pytest.approx(min(low))
        assert outline[:, 1].max() == pytest.approx(max(high))


def test_a_very_wide_band_does_not_change_the_limits_of_a_panel(table, appearance, curves):
    class Open(Line):
        def band(self, x, level=0.9, **_):
            return self.predict(x) - 1e6, self.predict(x) + 1e6

    wild = [replace(c, line=Open(**vars(c.line))) for c in curves if c.unit is Unit.NATS]
    figure = figures.loss_grid(
        Losses(table), wild, appearance, x="wiki", ys=["legal"], unit=Unit.NATS
    )
    low, high = figure.axes[0].get_ylim()
    assert 0 < low < high < 8


def test_every_run_has_a_curve_against_compute(table, appearance):
    sets = eval_sets(table, kind="validation")
    figure = figures.loss_over_compute(
        Losses(table), planted.laws(), appearance, sets=sets, unit=Unit.NATS
    )
    for ax in figure.axes:
        assert len(artists(ax, "run/")) == table["run_id"].nunique()
        assert ax.get_xscale() == "log"


def test_runs_of_one_checkpoint_are_points_without_a_curve(table, appearance):
    last = table[table["step"] == table.groupby("run_id")["step"].transform("max")]
    figure = figures.loss_over_compute(Losses(last), (), appearance, sets=["wiki"], unit=Unit.NATS)
    (ax,) = figure.axes
    assert not artists(ax, "run/")
    drawn = artists(ax, "points/").values()
    assert sum(len(points.get_xdata()) for points in drawn) == last["run_id"].nunique()


def test_a_law_is_drawn_at_the_best_measured_size_for_each_compute(table, appearance):
    figure = figures.loss_over_compute(
        Losses(table), planted.laws(), appearance, sets=["legal", "wiki"], unit=Unit.NATS
    )
    legal, wiki = figure.axes
    assert not artists(legal, "law/")
    drawn = artists(wiki, "law/")
    assert len(drawn) == len(planted.DATA)
    compute, loss = drawn["law/legal/llama/bpe-4096"].get_data()
    size = np.geomspace(4e5, 2.5e6, 2001)[:, None]
    tokens = compute / (6 * size)
    truth = planted.E_X + 1.3 * ((4e4 / size) ** 0.35 + (3.5e6 / tokens) ** 0.42)
    np.testing.assert_allclose(loss, truth.min(axis=0), rtol=1e-3)


def test_the_same_table_gives_the_same_bytes(table, curves, tmp_path):
    def once():
        appearance = Appearance.of(table)
        return figures.overview(
            Losses(table), curves, appearance, x="wiki", y="hellaswag", units=list(Unit)
        )

    assert png(once()) == png(once())
    first = figures.save(once(), tmp_path / "a.png").with_suffix(".svg").read_bytes()
    second = figures.save(once(), tmp_path / "b.png").with_suffix(".svg").read_bytes()
    assert first == second


def test_an_svg_has_coordinates_of_two_decimals_and_its_names(tmp_path):
    figure = figures.new_figure(3, 2)
    ax = figure.subplots()
    ax.set_title('d="M 0.123456" <use x="0.123456')
    x = np.linspace(0, 1, 7) ** 2
    ax.plot(x, x, marker="o", gid="run-0.123456")
    whole = io.BytesIO()
    with figures.publication_style():
        figure.savefig(whole, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")
    path = figures.save(figure, tmp_path / "a.png").with_suffix(".svg")
    number = re.compile(r"-?\d+\.\d+|-?\d+")
    trees = [ElementTree.fromstring(text) for text in (whole.getvalue(), path.read_bytes())]
    moved = []
    for before, after in zip(*(tree.iter() for tree in trees), strict=True):
        assert before.tag == after.tag
        assert before.text == after.text
        for name, value in before.items():
            if name in ("d", "x", "y") and before.tag.endswith(("path", "use")):
                assert not re.search(r"\.\d{3}", after.get(name))
                numbers = [[float(n) for n in number.findall(v)] for v in (value, after.get(name))]
                assert numbers[1] == pytest.approx(numbers[0], abs=0.0101)
                moved += [a != b for a, b in zip(*numbers, strict=True)]
            else:
                assert after.get(name) == value
    assert sum(moved) > 20


def test_legend_lies_outside_all_panels(table, appearance, curves):
    figure = figures.overview(
        Losses(table), curves, appearance, x="wiki", y="hellaswag", units=list(Unit)
    )
    png(figure)  # computes the layout
    legend = figure.legends[0].get_window_extent()
    assert all(not legend.overlaps(ax.get_window_extent()) for ax in figure.axes)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"wiki", "llama", "other tokenizer", "other optimization"} <= set(labels)


def test_very_small_and_very_large_studies_are_drawn(curves):
    single = planted.table(
        planted.Recipe(
            sizes=(1e6,),
            architectures=("llama",),
            data=("wiki",),
            checkpoints=1,
            interventions=False,
        )
    )
    appearance = Appearance.of(single)
    png(figures.overview(Losses(single), (), appearance, x="wiki", y="hellaswag", units=list(Unit)))
    large = planted.table(planted.Recipe(sizes=tuple(np.geomspace(1e5, 1e7, 20)), checkpoints=50))
    assert large.groupby(["run_id", "step"]).ngroups >= 6000
    figure = figures.overview(
        Losses(large), (), Appearance.of(large), x="wiki", y="hellaswag", units=[Unit.NATS]
    )
    png(figure)
    assert len(figure.axes[0].lines) < 60  # one artist per look, not per point


def test_dollar_signs_in_names_are_not_parsed_as_mathematics(table, appearance):
    named = table.copy()
    named["eval_set"] = named["eval_set"].str.replace("hellaswag", r"$\frac{<b>$_x")
    figure = figures.overview(
        Losses(named), (), appearance, x="wiki", y=r"$\frac{<b>$_x", units=[Unit.NATS]
    )
    assert re.match(b"\x89PNG", png(figure))
