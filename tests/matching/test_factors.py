"""Every option of a run is a fact: a difference in one is tested, and never counted as noise."""

import time

import numpy as np
import pandas as pd
import pytest
from planted_study import Study

from lossline import tables
from lossline.attribution import AttributionOptions, attribute
from lossline.attribution.results import Verdict
from lossline.matching.changes import change_sets
from lossline.matching.groups import design
from lossline.matching.own_factors import own_factors
from lossline.matching.run_facts import RunFacts

QUICK = AttributionOptions(resamples=0)
RECORDED = {
    "option.batch_size": "32",
    "option.documents": "joined",
    "option.schedule.warmup": "0.05",
    "option.optimizer.b2": "0.95",
    "option.model.tie_embeddings": "false",
    "option.model.vocab_size": "4096",
    "option.microbatches": "1",
    "option.model.scan_layers": "true",
    "option.steps": "1000",
}


class Recorded(Study):
    """The planted study with recorded options.

    For each of ``variants``, the usual runs on wiki are trained once more with these changes.
    """

    def __init__(self, *variants, **kwargs):
        super().__init__(**{"sets": {"legal": 0.0, "wiki": 0.3}} | kwargs)
        self.variants = variants

    def runs(self):
        runs = [
            run
            | RECORDED
            | {"source": "lossline", "option.seed": str(run["seed"])}
            | {"option.model.width": "96" if run["params"] < 1.5e6 else "128"}
            | {"option.schedule.final": "0.1" if run["schedule"] == "cosine" else None}
            | {"option.model.state": "16" if run["architecture"] == "mamba" else None}
            | {"option.store": (run["pretraining_data"] + run["tokenizer"]).encode().hex()}
            for run in super().runs()
        ]
        usual = [
            run
            for run in runs
            if (run["pretraining_data"], run["tokenizer"], run["schedule"])
            == ("wiki", "bpe", "cosine")
        ]
        return runs + [run | variant for variant in self.variants for run in usual]


def found(*variants, moves=None, table=None, seed=0, **kwargs):
    study = Recorded(*variants, moves=moves, seed=seed, **kwargs)
    return attribute(study.table() if table is None else table, QUICK)


@pytest.fixture(scope="module")
def plain():
    """The study without variants; nothing changes it."""
    return found()


def verdicts(attribution):
    return {factor.factor: factor.verdict for factor in attribution.factors}


@pytest.mark.parametrize(
    ("column", "usual", "other"),
    [
        ("option.batch_size", "32", "64"),
        ("option.schedule.warmup", "0.05", "0.2"),
        ("option.documents", "joined", "separate"),
        ("option.optimizer.b2", "0.95", "0.999"),
        ("option.model.tie_embeddings", "false", "true"),
    ],
)
def test_an_option_that_moves_the_line_is_found_and_not_counted_as_noise(
    plain, column, usual, other
):
    moved = found({column: other}, moves={column: {other: 0.3}})
    assert verdicts(moved)[column] is Verdict.MOVES
    effect = moved.factor(column).nats
    assert (effect.low_level, effect.high_level) == (usual, other)
    assert effect.move.value == pytest.approx(0.3, abs=0.06)
    for name in ("architecture", "params", "learning_rate"):
        assert verdicts(moved)[name] is verdicts(plain)[name], name
        # If both values counted as one level, the noise would be .3 / sqrt(2).
        assert moved.factor(name).nats.noise < 0.08, name
    assert verdicts(moved)["pretraining_data"] is verdicts(plain)["pretraining_data"]


def test_an_option_without_effect_does_not_move_the_line():
    assert verdicts(found({"option.batch_size": "64"}))["option.batch_size"] in (
        Verdict.NO_MOVE,
        Verdict.UNRESOLVED,
    )


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 7, "option.seed": "7"},
        {"option.data_seed": "3"},
        {"option.microbatches": "4"},
        {"option.model.scan_layers": "false"},
        {"option.steps": "2000"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_seeds_implementations_and_lengths_are_replicates(plain, change):
    twice = found(change)
    assert set(verdicts(twice)) == set(verdicts(plain))
    assert (
        twice.factor("architecture").nats.degrees > plain.factor("architecture").nats.degrees + 0.5
    )


def test_options_of_an_architecture_change_along_with_it():
    """Every Mamba has a state size and tied embeddings here; the sentence names the latter."""
    table = Recorded().table()
    mamba = table["architecture"] == "mamba"
    table.loc[mamba, "option.model.tie_embeddings"] = "true"
    attribution = attribute(table, QUICK)
    sentence = attribution.factor("architecture").sentence
    assert "the architecture (and with it tied embeddings)" in sentence
    assert attribution.factor("architecture").nats.runs > 10
    assert not {"option.model.tie_embeddings", "option.model.state"} & set(verdicts(attribution))


def test_an_option_of_the_schedule_is_tested_together_with_the_learning_rate():
    """The constant schedule has no warm-up, and always has another learning rate."""
    table = Recorded().table()
    table.loc[table["schedule"] == "constant", "option.schedule.warmup"] = "0.0"
    attribution = attribute(table, QUICK)
    along = "(and with it the learning-rate schedule and the warm-up)"
    assert along in attribution.factor("learning_rate").sentence
    warmup = attribution.factor("option.schedule.warmup")
    assert warmup.verdict is Verdict.CONFOUNDED
    assert "only changes together with the learning rate" in warmup.sentence


def test_variants_of_one_architecture_are_not_replicates_of_each_other():
    """Two state sizes at one parameter count: Llama is compared with only one of them."""
    wide = {"architecture": "mamba", "option.model.state": "64", "params": 1.05e6}
    table = Recorded(wide, moves={"option.model.state": {"64": 1.0}}).table()
    plan = design(table)
    wide_runs = set(table[table["option.model.state"] == "64"]["run_id"])
    for factor in ("architecture", "pretraining_data", "tokenizer"):
        for group in plan.groups(factor):
            for runs in group.levels.values():
                assert len({run in wide_runs for run in runs}) == 1, (factor, group)
    assert attribute(table, QUICK).factor("architecture").nats.noise < 0.08


def test_two_shapes_of_one_size_are_not_replicates():
    deep = {"option.model.width": "48"}
    plan = design(Recorded(deep).table())
    for factor in ("architecture", "pretraining_data", "tokenizer", "learning_rate"):
        for group in plan.groups(factor):
            for runs in group.levels.values():
                assert plan.runs.loc[list(runs), "shape"].nunique() == 1


def test_the_shape_of_models_of_one_size_is_tested(plain):
    """Depth against width at equal parameters."""
    study = Recorded(
        {"option.model.width": "48"}, moves={"option.model.width": {"48": 0.3}}, seeds=2
    )
    factor = attribute(study.table(), QUICK).factor("shape")
    assert factor.verdict is Verdict.MOVES
    assert factor.sentence.startswith("Changing the shape of the model moves the line")
    assert abs(factor.nats.move.value) == pytest.approx(0.3, abs=0.06)
    assert "shape" not in verdicts(plain)


def test_a_batch_size_that_follows_the_model_size_is_named_with_it():
    table = Recorded().table()
    table.loc[table["params"] > 1.5e6, "option.batch_size"] = "64"
    attribution = attribute(table, QUICK)
    assert "the model size (and with it the batch size)" in attribution.factor("params").sentence
    whole = attribution.factor("option.batch_size")
    assert whole.verdict is Verdict.CONFOUNDED and "the model size" in whole.sentence


def test_an_option_that_changes_only_with_another_factor_is_confounded():
    table = Recorded().table()
    table.loc[table["pretraining_data"] == "python", "option.z_loss"] = "0.001"
    table.loc[table["pretraining_data"] != "python", "option.z_loss"] = "0.0"
    attribution = attribute(table, QUICK)
    assert verdicts(attribution)["option.z_loss"] is Verdict.CONFOUNDED
    assert "the pretraining data changes with it" in attribution.factor("option.z_loss").sentence
    data = attribution.factor("pretraining_data")  # only wiki and pubmed have the same z-loss
    assert {data.nats.low_level, data.nats.high_level} == {"wiki", "pubmed"}


def test_two_stores_with_one_name_are_two_levels_of_the_data():
    table = Recorded(moves={"pretraining_data": {"wiki": 0.0}}).table()
    other = table["run_id"].isin(
        table[(table["pretraining_data"] == "wiki") & (table["tokenizer"] == "bpe")]["run_id"]
        .drop_duplicates()
        .iloc[::2]
    )
    table.loc[table["option.store"].notna(), "option.store"] = "a" * 64
    table.loc[other, "option.store"] = "b" * 64
    levels = attribute(table, QUICK).factor("pretraining_data").levels
    assert {"wiki (store aaaaaaaa)", "wiki (store bbbbbbbb)"} <= set(levels)


def test_four_levels_of_a_numeric_option_are_compared_by_a_trend():
    variants = [{"option.batch_size": str(n)} for n in (64, 128, 256)]
    moves = {"option.batch_size": {str(32 * 2**i): 0.1 * i for i in range(4)}}
    factor = found(*variants, moves=moves).factor("option.batch_size")
    assert factor.levels == ("32", "64", "128", "256")
    assert factor.verdict is Verdict.MOVES
    assert factor.nats.move.value == pytest.approx(0.3, abs=0.06)


def test_options_that_a_table_does_not_record_have_the_verdict_not_recorded():
    attribution = attribute(Study().table(), QUICK)
    for name in ("option.batch_size", "option.schedule.warmup", "option.documents"):
        assert verdicts(attribution)[name] is Verdict.MISSING
    assert "batch size is not recorded" in attribution.factor("option.batch_size").sentence


def test_runs_without_recorded_options_are_not_matched_with_others():
    """Their options are unknown."""
    recorded, earlier = Recorded().table(), Study(seed=1).table()
    earlier = earlier.assign(run_id="old-" + earlier["run_id"], source="lossline")
    plan = design(tables.concat([recorded, earlier]))
    for group in plan.groups("architecture"):
        runs = [run for level in group.levels.values() for run in level]
        assert len({run.startswith("old-") for run in runs}) == 1


# --- the user's own factors ---


def test_an_own_factor_that_no_option_records_is_tested():
    curriculum = {"factor.curriculum": "easy first"}
    study = Recorded(curriculum, moves={"factor.curriculum": {"easy first": 0.3}})
    table = study_table(study, {"factor.curriculum": "mixed"})
    attribution = attribute(table, QUICK)
    factor = attribution.factor("factor.curriculum")
    assert factor.verdict is Verdict.MOVES
    assert factor.sentence.startswith("Changing curriculum moves the line")
    assert attribution.factor("architecture").nats.noise < 0.08


def study_table(study, default):
    """Return the table of a study; runs without a level of the own factor get ``default``."""
    runs = study.runs
    study.runs = lambda: [default | run for run in runs()]
    return study.table()


def test_an_own_factor_that_renames_a_recorded_fact_is_tested_under_the_facts_name():
    table = Recorded({"option.batch_size": "64"}).table()
    plain = attribute(table, QUICK)
    own = table.assign(
        **{
            "factor.text": table["pretraining_data"],
            "factor.batch": table["option.batch_size"].map({"32": "small", "64": "large"}),
            "factor.model": table["architecture"] + table["option.model.width"],
        }
    )
    attribution = attribute(own, QUICK)
    assert verdicts(attribution) == verdicts(plain)
    assert attribution.effects().equals(plain.effects())


def test_an_own_factor_that_renames_seeds_is_not_tested():
    table = Recorded({"seed": 7, "option.seed": "7"}).table()
    own = table.assign(**{"factor.repetition": "r" + table["seed"].astype(str)})
    assert verdicts(attribute(own, QUICK)) == verdicts(attribute(table, QUICK))


def test_facts_that_change_only_together_are_tested_as_the_users_own_factor():
    recipe = {"option.batch_size": "64", "option.documents": "separate"}
    table = Recorded(recipe, moves={"option.batch_size": {"64": 0.3}}).table()
    named = table.assign(
        **{"factor.recipe": np.where(table["option.batch_size"] == "64", "new", "old")}
    )
    attribution = attribute(named, QUICK)
    factor = attribution.factor("factor.recipe")
    assert factor.verdict is Verdict.MOVES
    assert "(and with it the batch size and whether documents see each other)" in factor.sentence
    for name in recipe:
        assert verdicts(attribution)[name] is Verdict.CONFOUNDED
        assert "only changes together with recipe" in attribution.factor(name).sentence


def test_an_own_factor_that_changes_the_shape_of_the_model_is_tested():
    """The table has no column for the shape of the model; the grid names it."""
    deep = {"option.model.width": "48", "factor.depth": "deep"}
    study = Recorded(deep, moves={"factor.depth": {"deep": 0.3}}, seeds=2)
    attribution = attribute(study_table(study, {"factor.depth": "wide"}), QUICK)
    factor = attribution.factor("factor.depth")
    assert factor.verdict is Verdict.MOVES
    assert "(and with it the shape of the model)" in factor.sentence


def test_an_own_factor_of_many_levels_is_compared_quickly():
    """300 runs with a level each: 44,850 pairs; one new table per pair would take minutes."""
    runs = pd.DataFrame({"learning_rate": [str(n % 7) for n in range(300)]})
    own = pd.DataFrame({"factor.run": [f"run {n}" for n in range(300)]})
    facts = RunFacts(factors=runs, own=own, others=own[[]], size=pd.Series(), size_column="params")
    start = time.monotonic()
    found = own_factors(facts, lambda change: change, change_sets(runs))
    assert found == {}
    assert time.monotonic() - start < 30


# --- tables of other programs ---


def test_an_option_that_lossline_does_not_know_is_a_factor_too():
    table = study_table(
        Recorded(
            {"option.model.dropout": "0.1"}, moves={"option.model.dropout": {"0.1": 0.3}}, seeds=2
        ),
        {"option.model.dropout": "0.0"},
    )
    attribution = attribute(table, QUICK)
    factor = attribution.factor("option.model.dropout")
    assert factor.verdict is Verdict.MOVES
    assert factor.sentence.startswith("Changing the option model.dropout moves the line")
    assert attribution.factor("architecture").nats.noise < 0.05


@pytest.mark.parametrize(
    ("column", "spellings"),
    [("option.batch_size", ("32", "32.0")), ("option.optimizer.b2", ("0.95", "9.50e-1"))],
)
def test_two_spellings_of_one_number_are_one_level(column, spellings):
    table = Recorded(seeds=2).table()
    table[column] = np.where(table["seed"] == 0, *spellings)
    plan = design(table)
    assert plan.recorded_levels(column) == spellings[:1]


def test_an_option_column_fills_the_empty_named_column_of_the_same_fact():
    column = "option.optimizer.weight_decay"
    study = Recorded({column: "0.3"}, moves={column: {"0.3": 0.3}}, seeds=2)
    table = study_table(study, {column: "1e-1"}).assign(weight_decay=np.nan)
    factor = attribute(table, QUICK).factor("weight_decay")
    assert factor.levels == ("0.1", "0.3") and factor.verdict is Verdict.MOVES
