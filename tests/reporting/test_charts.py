import io
from dataclasses import replace

import numpy as np
import pytest

from lossline.attribution.results import Interval, Verdict
from lossline.reporting import charts, figures
from lossline.reporting.appearance import INTERVENTIONS
from lossline.tables.schema import Unit
from tests.reporting import planted


@pytest.fixture(scope="module")
def results():
    return planted.results()


def drawn(ax, prefix):
    found = ax.findobj(lambda artist: str(artist.get_gid() or "").startswith(prefix))
    return {artist.get_gid(): artist for artist in found}


def lay_out(figure):
    with figures.publication_style():
        figure.savefig(io.BytesIO(), format="png")


def test_each_tested_factor_has_its_move_and_interval_in_both_units(results):
    figure = charts.attribution_chart(results.attribution, units=list(Unit))
    for ax, unit in zip(figure.axes, ("nats", "bits_per_byte"), strict=True):
        for factor in results.attribution.factors:
            effect = getattr(factor, unit)
            if effect is None:
                assert f"effect/{factor.factor}" not in drawn(ax, "effect/")
                continue
            x = drawn(ax, "effect/")[f"effect/{factor.factor}"].get_xdata()
            assert list(x) == [effect.move.value]
            ends = drawn(ax, "interval/")[f"interval/{factor.factor}"].get_xdata()
            assert list(ends) == [effect.move.low, effect.move.high]
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert "context length" not in labels  # it does not vary
    assert len(drawn(figure.axes[0], "untested/")) == 1  # params are confounded: a reason is shown


def test_color_follows_the_verdict(results):
    ax = charts.attribution_chart(results.attribution, units=[Unit.NATS]).axes[0]
    effects = drawn(ax, "effect/")
    assert effects["effect/pretraining_data"].get_color() == charts.MOVED
    assert effects["effect/architecture"].get_color() == charts.SMALL
    assert effects["effect/learning_rate"].get_color() == charts.SAME
    assert ax.get_xscale() == "symlog"
    (band,) = [patch for patch in ax.patches if patch.get_gid() == "margin"]
    assert (band.get_x(), band.get_x() + band.get_width()) == (-0.05, 0.05)


def test_long_names_and_messages_do_not_shrink_the_panels(results):
    factors = tuple(
        replace(factor, label="a very long name of a factor " * 3, message="why " * 90)
        for factor in results.attribution.factors
    )
    attribution = replace(results.attribution, factors=factors)
    figure = charts.attribution_chart(attribution, units=list(Unit))
    lay_out(figure)
    assert all(ax.get_position().width > 0.22 for ax in figure.axes)


def test_moves_far_beyond_the_axis_are_arrowheads_at_its_end(results):
    factor = results.attribution.factor("pretraining_data")
    far = replace(factor.nats, y_set="far", move=Interval(value=50.0, low=49.0, high=51.0))
    attribution = replace(
        results.attribution, factors=(replace(factor, effects=(*factor.effects, far)),)
    )
    ax = charts.attribution_chart(attribution, units=[Unit.NATS]).axes[0]
    assert ax.get_xlim()[1] < 1.0
    arrows = drawn(ax, "others/0/>")["others/0/>"]
    assert list(arrows.get_xdata()) == [ax.get_xlim()[1]]


def test_small_dots_show_only_moves_between_the_same_two_levels(results):
    """A move between two other levels may have the opposite sign."""
    factor = results.attribution.factor("pretraining_data")
    other = replace(
        factor.nats, y_set="arc_easy", low_level="pubmed", high_level="wiki",
        move=Interval(value=-0.4, low=-0.5, high=-0.3),
    )  # fmt: skip
    for effects, dots in (((factor.nats, other), 0), (factor.effects, 1)):
        attribution = replace(results.attribution, factors=(replace(factor, effects=effects),))
        ax = charts.attribution_chart(attribution, units=[Unit.NATS]).axes[0]
        assert len(drawn(ax, "others/0/o")) == dots


def test_a_verdict_without_numbers_is_drawn(results):
    factor = results.attribution.factor("params")
    attribution = replace(
        results.attribution, factors=(replace(factor, verdict=Verdict.UNRESOLVED),)
    )
    lay_out(charts.attribution_chart(attribution, units=list(Unit)))


def test_held_out_interventions_have_the_markers_of_the_legend(results, appearance):
    scores = results.heldout[results.heldout["unit"] == "loss"]
    run = scores["run_id"].iloc[0]
    kind = INTERVENTIONS[0]
    looks = replace(appearance, interventions={run: kind})
    figure = charts.held_out_chart(
        scores, looks, unit=Unit.NATS, methods=["line", "straight line"], same=scores
    )
    away = drawn(figure.axes[0], "held_out/")
    unusual = {name: artist for name, artist in away.items() if name.endswith(f"/{kind.name}")}
    usual = [artist for name, artist in away.items() if name.endswith("/usual")]
    ours = scores[(scores["method"] == "line") & (scores["run_id"] == run)]
    assert sum(len(artist.get_xdata()) for artist in unusual.values()) == len(ours) > 0
    (handle,) = [
        h for h in figure.legends[0].legend_handles if h.get_label() == f"other {kind.name}"
    ]
    for artist in unusual.values():
        assert artist.get_fillstyle() == handle.get_fillstyle()
        assert (artist.get_markerfacecolor() == "white") == (
            handle.get_markerfacecolor() == "white"
        )
    assert usual and all(artist.get_markerfacecolor() != "white" for artist in usual)


def test_held_out_chart_shows_every_prediction_and_the_median_errors(results, appearance):
    scores = results.heldout[results.heldout["unit"] == "loss"]
    methods = ["line", "straight line", "compute law"]
    figure = charts.held_out_chart(scores, appearance, unit=Unit.NATS, methods=methods, same=scores)
    left, right = figure.axes
    ours = scores[scores["method"] == "line"]
    points = [
        pair
        for artist in drawn(left, "held_out/").values()
        for pair in zip(*artist.get_data(), strict=True)
    ]
    expected = set(zip(ours["measured"], ours["predicted"], strict=True))
    assert set(points) == expected
    for method in methods:
        part = scores[scores["method"] == method]
        error = 100 * np.abs(part["predicted"] / part["measured"] - 1)
        bar = drawn(right, f"median/{method}")[f"median/{method}"].get_xdata()
        assert bar[0] == pytest.approx(np.median(error))
    lay_out(figure)


@pytest.mark.parametrize("facts", ["not recorded", "not grouped by"])
def test_held_out_runs_without_data_and_architecture_are_drawn_too(results, appearance, facts):
    scores = results.heldout[results.heldout["unit"] == "loss"]
    looks = ["pretraining_data", "architecture"]
    scores = (
        scores.drop(columns=looks)
        if facts == "not grouped by"
        else scores.assign(**dict.fromkeys(looks))
    )
    figure = charts.held_out_chart(
        scores, appearance, unit=Unit.NATS, methods=["line"], same=scores
    )
    points = [len(artist.get_xdata()) for artist in drawn(figure.axes[0], "held_out/").values()]
    assert sum(points) == (scores["method"] == "line").sum() > 0


def test_p_values_in_words():
    assert charts.p_text(0.0002) == "p < 0.001"
    assert charts.p_text(0.034) == "p = 0.034"
