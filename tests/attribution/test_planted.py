"""Verdicts on planted studies of every kind, a few tables of each.

The studies are in ``experiments/attribution/designs.py``; ``planted.json`` next to it has the
shares of verdicts over many tables.
"""

import dataclasses
import json
import sys
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lossline.attribution import AttributionOptions, attribute
from lossline.attribution.results import Verdict
from lossline.errors import UserError
from lossline.fits.fitting import TableFitOptions, fit_table

OPTIONS = AttributionOptions(x_set="legal", resamples=0)


@pytest.fixture(scope="module")
def designs(repository):
    sys.path.insert(0, str(repository / "experiments" / "attribution"))
    try:
        import designs
    finally:
        sys.path.pop(0)
    return designs


@pytest.fixture(scope="module")
def drawn(designs):
    """Function from (design, seed) to its planted table."""

    @cache
    def draw(name: str, seed: int = 0) -> pd.DataFrame:
        return designs.plant(designs.DESIGNS[name], np.random.default_rng([seed, 77]))

    return draw


def verdict_of(table, factor, **changes):
    return attribute(table, dataclasses.replace(OPTIONS, **changes)).factor(factor)


def test_the_kept_table_has_every_design_and_few_wrong_verdicts(repository, designs):
    """At most one verdict in 15 contradicts the truth.

    Where nothing moves, at most 5% plus three standard errors of uncorrected p-values are below
    0.05.
    """
    kept = json.loads((repository / "experiments/attribution/planted.json").read_text())
    scores = {score["design"]: score for score in kept["scores"]}
    assert set(scores) == set(designs.DESIGNS)
    for name, score in scores.items():
        assert score["tables"] >= 50
        worst = max(share * (1 - share) for share in score["verdicts"].values())
        assert (worst / score["tables"]) ** 0.5 <= 0.03
        assert score["truth"] == designs.DESIGNS[name].truth
        assert score["wrong"] <= 0.067, name
        if score["truth"] == "nothing":
            assert score["rejected"] <= 0.05 + 3 * (0.0475 / score["tables"]) ** 0.5, name


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("architecture .1", Verdict.MOVES),
        ("architecture .1, data .4", Verdict.MOVES),
        ("architecture .03, data .4", Verdict.BELOW),
        ("factorial, 32 quiet runs", Verdict.NO_MOVE),
        ("crossed: +.15 and −.15", Verdict.BY_GROUP),
        ("crossed: +.15 and −.15, data .4", Verdict.BY_GROUP),
        ("on python alone: .15", Verdict.BY_GROUP),
        ("U of five learning rates", Verdict.MOVES),
        ("one of five learning rates off", Verdict.MOVES),
        ("trend of five learning rates", Verdict.MOVES),
        ("one of three levels", Verdict.MOVES),
        ("rare optimizer, 4 of 36 runs", Verdict.MOVES),
        ("tokenizer, not per byte", Verdict.PER_TOKEN),
        ("tokenizer, per byte too", Verdict.MOVES),
    ],
)
def test_the_verdict_is_the_planted_one(designs, drawn, name, verdict):
    """One table of designs whose verdict is right in at least nine of ten tables (planted.md)."""
    assert verdict_of(drawn(name), designs.DESIGNS[name].factor).verdict is verdict


@pytest.mark.parametrize(
    "name",
    [
        "2 noisy (×2) and 8 quiet",
        "3 noisy (×2) and 12 quiet",
        "2 noisy (×4) and 2 levels of 4",
        "1 and 1 (×2), noise borrowed",
        "every run twice",
        "transient at the start",
    ],
)
def test_no_factor_moves_the_line_where_none_was_planted(designs, drawn, name):
    factor = designs.DESIGNS[name].factor
    assert not any(verdict_of(drawn(name, seed), factor).verdict.moving for seed in range(2))


def test_groups_that_move_differently_are_named_with_their_moves(drawn):
    found = verdict_of(drawn("crossed: +.15 and −.15"), "architecture")
    moves = {group.level: group.move for group in found.by_group}
    assert moves["python"] == pytest.approx(0.15, abs=0.03)
    assert moves["wiki"] == pytest.approx(-0.15, abs=0.03)
    assert {group.factor for group in found.by_group} == {"pretraining_data"}
    assert "the move depends on the pretraining data. " in found.sentence
    assert " where the pretraining data is python, and by -0.1" in found.sentence
    assert " nats where it is wiki (corrected p " in found.sentence
    assert found.size == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize(
    ("levels", "seeds", "moves"),
    [
        ({"pretraining_data": ("wiki", "python", "law")}, 2, (0.15, -0.15, 0.0)),
        ({"params": (1e8, 2e8, 4e8, 8e8)}, 2, (0.0, 0.0, 0.0, 0.2)),
    ],
)
def test_a_level_that_differs_is_found_although_the_others_differ_too(
    designs, levels, seeds, moves
):
    """Differences among the other levels, or within half of the sizes, do not count as noise."""
    other, names = next(iter(levels.items()))
    moved = dict(zip(names, moves, strict=True))
    study = designs.PlantedStudy(
        about="", factor="architecture", truth="by group", noise=0.01,
        runs=designs.grid(seeds, architecture=designs.ARCHITECTURES, **levels),
        effect=lambda facts: moved[facts[other]] * designs.mamba(facts),
    )  # fmt: skip
    found = verdict_of(designs.plant(study, np.random.default_rng(3)), "architecture")
    assert found.verdict is Verdict.BY_GROUP
    assert {group.factor for group in found.by_group} == {other}
    planted = sorted(moves) if len(found.by_group) > 2 else [np.mean(moves[:2]), np.mean(moves[2:])]
    assert sorted(group.move for group in found.by_group) == pytest.approx(planted, abs=0.04)


def test_the_sentence_lists_which_pairs_of_levels_differ(drawn):
    found = verdict_of(drawn("one of three levels", 1), "pretraining_data")
    assert "law" in (found.nats.low_level, found.nats.high_level)
    (said,) = [part for part in found.sentence.split(". ") if part.startswith("On wiki, ")]
    apart, _, same = said.partition("differ")
    assert apart.count("law") == 2 and "law" not in same
    assert "python" in same and "wiki" in same


def test_a_bend_of_a_trend_is_described(drawn):
    found = verdict_of(drawn("U of five learning rates"), "learning_rate")
    assert "the trend bends" in found.sentence and "below the straight line" in found.sentence


def test_borrowed_noise_never_gives_the_verdict_moves(drawn):
    for seed in range(2):
        found = verdict_of(drawn("1 and 1, .5, noise borrowed", seed), "optimizer")
        assert found.verdict in (Verdict.PROVISIONAL, Verdict.UNRESOLVED)
        assert {effect.noise_from for effect in found.effects} == {"borrowed"}
        if found.verdict is Verdict.PROVISIONAL:
            assert "cannot show run-to-run noise, so the noise of other" in found.sentence


def test_the_margin_does_not_depend_on_other_factors(drawn):
    """A large effect of the data does not change it; only the option does."""
    quiet, other = (
        verdict_of(drawn(name), "architecture")
        for name in ("architecture .1", "architecture .1, data .4")
    )
    assert {e.margin for e in quiet.effects} == {e.margin for e in other.effects} == {0.05}
    wide = verdict_of(drawn("architecture .1"), "architecture", margin_nats=0.2)
    assert wide.verdict is Verdict.BELOW
    narrow = verdict_of(drawn("architecture .03, data .4"), "architecture", margin_nats=0.01)
    assert narrow.verdict is Verdict.MOVES


def test_a_set_of_few_tokens_has_a_wider_margin(drawn):
    few = drawn("architecture .1").assign(target_tokens=400, target_bytes=1600)
    found = verdict_of(few, "architecture")
    assert {effect.margin for effect in found.effects} == {2.0 / 20.0}
    whole = attribute(few, OPTIONS)
    assert "0.1 nats" in whole.margins


def test_an_inconclusive_sentence_gives_the_smallest_detectable_move(drawn):
    found = verdict_of(drawn("factorial, 8 runs"), "architecture")
    assert found.verdict is Verdict.UNRESOLVED
    least = min(effect.detectable for effect in found.effects)
    assert least > found.effects[0].margin
    assert f"smallest detectable move is {least:.2g} nats" in found.sentence


def test_copies_are_left_out_with_a_note(drawn):
    table = drawn("every run twice")
    once = table[~table.run_id.str.endswith("-again")].reset_index(drop=True)
    first, second = attribute(once, OPTIONS), attribute(table, OPTIONS)
    pd.testing.assert_frame_equal(first.contrasts, second.contrasts)
    assert "(copy of run-" in second.notes[0] and not any("copy of" in n for n in first.notes)
    rounded = table.copy()
    again = rounded.run_id.str.endswith("-again")
    rounded.loc[again, "loss"] = rounded.loc[again, "loss"].map(lambda x: float(f"{x:.7g}"))
    half = rounded[~again | (rounded.step <= 4)].reset_index(drop=True)
    pd.testing.assert_frame_equal(attribute(half, OPTIONS).contrasts, first.contrasts)


def test_copies_are_found_if_another_set_has_no_losses(drawn):
    table = drawn("every run twice")
    task = table[table.eval_set == "wiki"].assign(eval_set="task", loss=np.nan, accuracy=0.5)
    found = attribute(pd.concat([table, task], ignore_index=True), OPTIONS)
    assert "(copy of run-" in found.notes[0]


def test_copies_with_fewer_checkpoints_are_found(drawn):
    """Also in a table without token counts."""
    table = drawn("every run twice").assign(tokens=np.nan)
    shorter = table.run_id.str.endswith("-again") & (table.step > 4)
    assert "(copy of run-" in attribute(table[~shorter], OPTIONS).notes[0]


def test_runs_with_equal_rounded_losses_are_not_copies(designs):
    """Seeds of one recipe end at similar losses, here written with two decimals."""
    study = dataclasses.replace(
        designs.DESIGNS["factorial, 32 quiet runs"], noise=0.003, checkpoints=1
    )
    table = designs.plant(study, np.random.default_rng(5))
    table = table[table.eval_set != "hellaswag"].reset_index(drop=True)
    x = table[table.eval_set == "legal"].set_index("run_id").loss
    facts = ["architecture", "pretraining_data", "params"]
    recipe = table.groupby(facts).ngroup().to_numpy()
    table["loss"] += 3.0 + 0.1 * recipe - table.run_id.map(x)  # equal x within a recipe
    rounded = table.assign(loss=table.loss.round(2))
    assert rounded.duplicated([*facts, "eval_set", "loss"]).sum() > 30
    assert not any("copy of" in note for note in attribute(rounded, OPTIONS).notes)


def test_a_trend_without_a_common_range_is_not_compared(designs):
    """One level against the others would have a range, but one that no other level covers."""
    study = designs.DESIGNS["learning rates, nothing moves"]
    table = designs.plant(study, np.random.default_rng(0))
    place = table.learning_rate.map({rate: i for i, rate in enumerate(designs.RATES)})
    table["loss"] = 2.5 + place - 0.08 * table.step + 0.01 * np.sin(np.arange(len(table)))
    found = verdict_of(table, "learning_rate")
    assert found.verdict is Verdict.CONFOUNDED and "no range of loss in common" in found.sentence


def test_per_byte_is_not_judged_where_it_is_not_measured(drawn):
    table = drawn("tokenizer, not per byte").copy()
    tasks = table.eval_set == "hellaswag"
    table.loc[tasks & (table.tokenizer == "unigram"), "loss"] += 0.4
    table.loc[tasks, "bits_per_byte"] = np.nan
    found = verdict_of(table, "tokenizer")
    assert found.verdict is Verdict.MOVES
    assert found.sentence.startswith("Changing the tokenizer moves the line per token. ")
    assert "Per byte, the result is inconclusive: on " in found.sentence


def test_a_single_difference_is_described_in_the_singular(drawn):
    table = drawn("factorial, 32 quiet runs")
    found = verdict_of(table, "architecture", y_sets=("wiki",))
    assert found.verdict is Verdict.NO_MOVE
    assert "At equal loss on legal, the difference is " in found.sentence
    assert "Its 90% interval lies within the margin of 0.05 nats." in found.sentence


def test_two_seeds_are_not_copies(drawn):
    assert not any(
        "copy of" in note for note in attribute(drawn("factorial, 16 runs"), OPTIONS).notes
    )


def test_an_outlier_is_named_and_the_verdict_without_it_is_given(drawn):
    table = drawn("architecture .1, one run off")
    whole = attribute(table, OPTIONS)
    (note,) = whole.notes
    heights = table[table.eval_set == "wiki"].groupby("run_id").loss.mean()
    odd = note.split()[1]
    assert heights[odd] == heights.max()
    found = whole.factor("architecture")
    assert found.verdict is Verdict.UNRESOLVED
    assert f"Without the outlier run {odd}, the verdict is: moves" in found.sentence
    assert list(found.otherwise.values()) == ["moves"]


def test_a_verdict_that_changes_without_the_first_checkpoints_says_so(drawn):
    table = drawn("factorial, 32 quiet runs").copy()
    first = (table.step == 1) & (table.architecture == "mamba") & (table.eval_set != "legal")
    table.loc[first, "loss"] += 0.5
    found = verdict_of(table, "architecture")
    assert found.verdict is not Verdict.NO_MOVE
    assert found.otherwise == {"the first third of each run's range of x": "does not move"}


def test_checkpoints_above_max_x_are_left_out(drawn):
    table = drawn("factorial, 32 quiet runs").copy()
    first = (table.step == 1) & (table.architecture == "mamba") & (table.eval_set != "legal")
    table.loc[first, "loss"] += 0.5
    x = table[(table.eval_set == "legal") & (table.step == 2)].loss.max()
    assert verdict_of(table, "architecture", max_x=float(x)).verdict is Verdict.NO_MOVE


def test_facts_that_are_not_recorded_are_named_in_the_sentence(drawn):
    table = drawn("architecture .1").copy()
    table["weight_decay"] = np.nan
    found = verdict_of(table, "architecture")
    assert "weight decay" in " ".join(found.lacking)
    assert "Not recorded, so not held equal: " in found.sentence
    whole = attribute(drawn("architecture .1"), OPTIONS).factor("architecture")
    assert "weight decay" not in whole.sentence


def test_the_ranking_is_by_size(drawn):
    found = attribute(drawn("architecture .1, data .4"), OPTIONS)
    assert [factor.factor for factor in found.factors[:2]] == ["pretraining_data", "architecture"]
    data, architecture = found.factors[:2]
    assert data.ratio == 1.0 and architecture.ratio == pytest.approx(0.25, abs=0.1)
    assert "times the largest move (the pretraining data)" in architecture.sentence
    assert found.ranking.index("pretraining data") < found.ranking.index("the architecture")


def test_names_of_runs_and_levels_do_not_matter(drawn):
    table = drawn("factorial, 16 runs")
    random = np.random.default_rng(0)
    runs = table.run_id.unique()
    other_names = dict(zip(runs, random.permutation(runs), strict=True))
    renamed = table.assign(run_id=table.run_id.map(other_names))
    relabelled = table.assign(
        architecture=table.architecture.map({"llama": "zeta", "mamba": "alpha"}),
        pretraining_data=table.pretraining_data.map({"wiki": "zz", "python": "aa"}),
    )
    options = dataclasses.replace(OPTIONS, resamples=99)
    first, *others = (attribute(each, options) for each in (table, renamed, relabelled))
    for other in others:
        for factor in first.factors:
            again = other.factor(factor.factor)
            assert again.verdict is factor.verdict
            for one, two in zip(factor.effects, again.effects, strict=True):
                assert abs(two.move.value) == pytest.approx(abs(one.move.value), rel=1e-9)
                assert two.p_value == pytest.approx(one.p_value, rel=1e-9)
                assert two.p_resampled == pytest.approx(one.p_resampled, nan_ok=True)


def test_the_docs_page_quotes_the_sentence_of_every_picture(repository, designs, monkeypatch):
    """Every verdict that moves has a picture and the sentence of its study."""
    monkeypatch.syspath_prepend(str(repository / "experiments" / "attribution"))
    from pictures import PICTURES, found

    page = (repository / "docs" / "how_lossline_decides.md").read_text()
    assert {p.verdict for p in PICTURES} >= {v for v in Verdict if v.moving}
    for picture in PICTURES:
        _, factor = found(picture)
        assert factor.verdict is picture.verdict
        assert f"(figures/{picture.file})" in page
        assert f"> {factor.sentence}\n" in page
        assert (repository / "docs" / "figures" / picture.file).is_file()


def test_lines_that_agree_to_rounding_do_not_move(drawn):
    table = drawn("factorial, 16 runs").copy()
    x = table[table.eval_set == "legal"].set_index(["run_id", "step"]).loss
    same = x.loc[pd.MultiIndex.from_frame(table[["run_id", "step"]])].to_numpy(float)
    table["loss"] = np.where(table.eval_set == "legal", same, 0.3 + 1.7 * same)
    assert verdict_of(table, "architecture").verdict is Verdict.NO_MOVE
    moved = (table.architecture == "mamba") & (table.eval_set == "wiki")
    table.loc[moved, "loss"] += 0.2
    found = verdict_of(table, "architecture")
    assert found.verdict is Verdict.MOVES and found.nats.move.value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (
            slice(None),
            {"max_x": 0.1},
            "no checkpoint has both a loss on legal up to max_x = 0.1 and",
        ),
        ("legal", {}, "no checkpoint has both a loss on legal and a loss on another set"),
    ],
)
def test_the_message_gives_the_reason_why_nothing_can_be_compared(drawn, rows, changes, message):
    table = drawn("factorial, 8 runs")
    table = table if isinstance(rows, slice) else table[table.eval_set == rows]
    found = attribute(table, dataclasses.replace(OPTIONS, **changes))
    assert message in found.message and not found.factors


@pytest.mark.parametrize("name", ["margin_nats", "margin_bits_per_byte", "max_x"])
def test_options_out_of_range_are_refused(name):
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match=f"attribution.{name} must be a positive number"):
            AttributionOptions(**{name: value})
    with pytest.raises(UserError, match=r"attribution.alpha must lie between 0 and 0.5"):
        AttributionOptions(alpha=0.7)
    with pytest.raises(UserError, match=r"attribution.resamples must be 0 or more, not -1"):
        AttributionOptions(resamples=-1)


def test_a_factor_without_any_comparable_pair_of_levels_is_not_tested(drawn, monkeypatch):
    """One level against all others may still have a range in common; that is not enough."""
    monkeypatch.setattr("lossline.attribution.contrasts._Asker.levels", lambda *_: None)
    found = verdict_of(drawn("one of three levels"), "pretraining_data")
    assert found.verdict is Verdict.CONFOUNDED and not found.effects
    assert "no range of loss in common" in found.sentence


def test_sets_that_do_not_exist_are_refused_before_any_fit(drawn):
    options = TableFitOptions(attribution=AttributionOptions(x_set="leagl"))
    with pytest.raises(UserError, match=r"attribution: no evaluation set 'leagl'.*'legal'"):
        fit_table(drawn("factorial, 8 runs"), options, say=pytest.fail)


def test_a_level_of_a_single_run_is_not_shown_to_lie_within_the_margin(drawn):
    table = drawn("one of three levels").copy()
    only = table[table.pretraining_data == "law"].run_id.min()
    table = table[(table.pretraining_data != "law") | (table.run_id == only)]
    found = verdict_of(table, "pretraining_data")
    alike = attribute(table, OPTIONS).contrasts.query("kind == 'levels' and unit == 'loss'")
    alike = alike[alike.factor == "pretraining_data"]
    assert alike.p_equivalent.isna().any() and alike.p_equivalent.notna().any()
    assert all(np.isnan(effect.p_equivalent) for effect in found.effects)


def test_the_sentence_names_a_level_of_few_runs_but_not_for_a_trend(drawn):
    table = drawn("factorial, 16 runs")
    few = table[(table.architecture == "llama") | table.run_id.isin(["run-008", "run-009"])]
    found = verdict_of(few, "architecture")
    assert found.nats.fewest == 2 and "This rests on only 2 runs of " in found.sentence
    trend = verdict_of(drawn("trend of five learning rates"), "learning_rate")
    assert trend.nats.fewest == 0 and "rests on" not in trend.sentence


@pytest.mark.parametrize("name", ["crossed three ways: ±.08", "sizes alternate: ±.08"])
def test_matched_groups_that_disagree_forbid_does_not_move(drawn, name):
    found = verdict_of(drawn(name), "architecture")
    assert found.verdict in (Verdict.UNRESOLVED, Verdict.BY_GROUP)
    if found.verdict is Verdict.UNRESOLVED:
        assert "Matched groups of runs disagree: " in found.sentence


def test_groups_that_differ_only_by_the_noise_of_seeds_do_not_disagree(drawn):
    """Runs with different seeds show how much moves of groups differ by noise."""
    noisy = [verdict_of(drawn("factorial, 16 runs", seed), "architecture") for seed in range(4)]
    assert not any("Matched groups" in found.sentence for found in noisy)


def test_a_hint_forbids_does_not_move(designs, monkeypatch):
    """All moves are shown to lie within the margin, but groups differ almost significantly."""
    monkeypatch.setattr("lossline.attribution.contrasts._spread", lambda _: 0.0)
    study = dataclasses.replace(designs.DESIGNS["crossed: +.15 and −.15"], noise=0.06)
    table = designs.plant(study, np.random.default_rng([2, 77]))
    found = verdict_of(table, "architecture", margin_nats=0.2)
    assert all(effect.p_equivalent < 0.05 for effect in found.effects)
    assert found.verdict is Verdict.UNRESOLVED
    assert "A hint, not significant after correction: " in found.sentence


def test_sets_in_different_units_are_judged_together(drawn):
    """Nats where they exist, bits per byte elsewhere; the sentence names the set that decides."""
    table = drawn("architecture .1").copy()
    bits = table.loss / np.log(2.0) / 4.0
    table["bits_per_byte"] = bits.where(table.eval_set != "wiki")
    table.loc[table.eval_set == "hellaswag", "loss"] = np.nan
    still = (table.eval_set == "wiki") & (table.architecture == "mamba")
    table.loc[still, "loss"] -= 0.1
    found = verdict_of(table, "architecture")
    assert found.verdict is Verdict.MOVES and found.unit == "bits_per_byte"
    assert found.named is found.bits_per_byte and found.named.y_set == "hellaswag"
    assert "the loss on hellaswag changes by +0.0" in found.sentence
    assert "bits per byte" in found.sentence


def test_borrowed_noise_counts_three_times(drawn):
    """For one run against one, the error of the difference is √2 times the noise, times three."""
    found = verdict_of(drawn("1 and 1, .5, noise borrowed"), "optimizer").nats
    reach = float(stats.t.isf(0.025, found.degrees)) * found.noise * 2**0.5
    assert (found.move.high - found.move.value) / reach == pytest.approx(3.0, rel=0.1)


def test_each_of_three_levels_is_compared_with_the_others(drawn):
    rows = attribute(drawn("one of three levels"), OPTIONS).contrasts
    rows = rows[(rows.kind == "one level against the others") & (rows.y_set == "wiki")]
    moves = dict(zip(rows.high_level, rows.move, strict=True))
    assert moves["law"] == pytest.approx(0.1, abs=0.03)
    assert moves["wiki"] == pytest.approx(-0.05, abs=0.03)
    assert rows.set_index("high_level").p_corrected["law"] < 0.05
