import pandas as pd

from lossline import tables
from lossline.cli.fit_command import BadRows
from lossline.reporting.appearance import COLORS, NOT_STATED, Appearance, labels, text
from tests.reporting import planted


def test_colors_are_by_data_and_do_not_depend_on_row_order():
    table = planted.table()
    shuffled = table.sample(frac=1.0, random_state=3)
    assert Appearance.of(table) == Appearance.of(shuffled)
    assert list(Appearance.of(table).colors) == ["legal", "pubmed", "wiki"]


def test_only_unusual_runs_are_interventions_and_of_the_right_kind():
    table = planted.table()
    appearance = Appearance.of(table)
    facts = table.drop_duplicates("run_id").set_index("run_id")
    for run_id, row in facts.iterrows():
        kind = appearance.interventions.get(run_id)
        if row["tokenizer"] == "unigram-4096":
            assert kind.name == "tokenizer"
        elif row["learning_rate"] == 1e-3:
            assert kind.name == "optimization"
        else:
            assert kind is None


def test_a_learning_rate_that_follows_the_size_is_not_an_intervention():
    rows = [
        {"run_id": f"{size}-{seed}", "params": size, "learning_rate": 1.0 / size, "seed": seed,
         "eval_set": "a", "kind": "validation", "step": 1, "tokens": 1.0, "loss": 2.0}
        for size in (10, 100, 1000)
        for seed in (0, 1)
    ]  # fmt: skip
    assert not Appearance.of(tables.from_rows(rows)).interventions


def test_missing_facts_have_a_color_and_a_name():
    rows = [
        {
            "run_id": "a",
            "eval_set": "v",
            "kind": "validation",
            "step": 1,
            "tokens": 1.0,
            "loss": 2.0,
        }
    ]
    appearance = Appearance.of(tables.from_rows(rows))
    assert list(appearance.colors) == [NOT_STATED]
    assert appearance.color(None) == appearance.color(pd.NA) == COLORS[0]


def test_colors_are_reused_if_there_are_more_sets_than_colors():
    rows = [
        {"run_id": f"r{i}", "pretraining_data": f"set{i:02d}", "architecture": f"a{i}",
         "eval_set": "v", "kind": "validation", "step": 1, "tokens": 1.0, "loss": 2.0}
        for i in range(30)
    ]  # fmt: skip
    assert len(Appearance.of(tables.from_rows(rows)).colors) == 30


def test_facts_are_printed_as_in_a_gin_file():
    found = [text(value) for value in (BadRows.EXCLUDE, 3e-4, float("nan"), None, "a", 12)]
    assert found == ["exclude", "0.0003", NOT_STATED, NOT_STATED, "a", "12"]


def test_different_names_of_one_figure_look_different():
    rule = "excess loss 60% of the {}, reference tuned step {}"
    rules = [rule.format(scope, 9) for scope in ("batch", "row")]
    steps = [rule.format("batch", step) for step in (9, 10)]
    short = labels(["all", *rules])
    assert len(set(short)) == 3 and max(map(len, short)) <= 26
    assert len(set(labels([*rules, *steps]))) == 3
    assert labels(["all", "all"]) == ["all", "all"]
