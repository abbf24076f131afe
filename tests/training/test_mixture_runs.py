"""Runs on a mixture of stores.

They are bound by gin, named by their contents, resumed exactly, and have component columns in the
loss table.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from lossline import tables
from lossline.batches.mixture import Mixture
from lossline.batches.plans import MixturePlan
from lossline.cli.configuration import _parse_command_line, build_options
from lossline.errors import UserError
from lossline.evaluation.measured_runs import checkpoint_columns
from lossline.options.columns import option_columns
from lossline.options.identity import identity
from lossline.runs.checkpoints import restore_state
from lossline.runs.restoring import load_model
from lossline.stores.sealed_json import NoStore
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.studies.planned_run import plan_run
from lossline.train import load
from lossline.training.loop import train
from lossline.training.make_trainer import make_trainer
from lossline.training.metrics import read_metrics
from lossline.training.text import TrainingText
from lossline.vocabularies import ByteVocabulary, Vocabulary

SHARES = {"wiki": 0.7, "python": 0.3}


class Killed(Exception):
    """Raised by a test to stop a run."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Folder with byte stores wiki, python and code."""
    folder = tmp_path_factory.mktemp("components")
    for name, text in (("wiki", "An article. "), ("python", "def f(x): "), ("code", "int x; ")):
        texts = [text * (20 + number) for number in range(20)]
        write_store(folder / name, texts, ByteVocabulary(), name=f"{name}-corpus")
    return folder


@pytest.fixture
def mixture(folder):
    """``mixture(wiki=0.7, python=0.3)``: a mixture of these stores."""

    def make(**shares):
        shares = shares or SHARES
        return Mixture(components={name: str(folder / name) for name in shares}, shares=shares)

    return make


@pytest.fixture(scope="session")
def finished(base_options, folder, tmp_path_factory):
    store = Mixture(components={n: str(folder / n) for n in SHARES}, shares=SHARES)
    root = str(tmp_path_factory.mktemp("mixed"))
    return train(replace(base_options, store=store, name="mixed", root=root))


def losses(run):
    rows = read_metrics(run.path / "metrics.jsonl")
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows]


def last_state(run, options):
    abstract = make_trainer(options).abstract_state
    data = run.facts["store_fingerprint"]
    return jax.tree.map(np.asarray, restore_state(run, 12, abstract, data=data))


@pytest.mark.parametrize("k", [5, 9])
def test_resume_after_a_crash_is_bitwise_identical(options, mixture, finished, monkeypatch, k):
    chosen = options(store=mixture(), name="mixed")
    batch = MixturePlan.batch

    def read(self, number, rows=None):
        if number == k:
            raise Killed
        return batch(self, number, rows)

    monkeypatch.setattr(MixturePlan, "batch", read)
    with pytest.raises(Killed):
        train(chosen)
    monkeypatch.undo()
    run = train(chosen)
    assert losses(run) == losses(finished)
    states = (last_state(each, chosen) for each in (run, finished))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_logged_loss_is_that_of_the_mixture_batch(finished, folder):
    stores = [TokenStore.open(folder / name) for name in SHARES]
    weights = list(SHARES.values())
    plan = MixturePlan(stores, weights=weights, context_length=32, batch_size=8, seed=0)
    assert plan.fingerprint == finished.facts["store_fingerprint"]
    batch = plan.batch(4)
    log_probs = jax.nn.log_softmax(jax.jit(load_model(finished, 4))(batch.inputs))
    nats = -np.take_along_axis(np.asarray(log_probs), batch.targets[..., None], axis=-1)
    step, loss, _ = losses(finished)[4]
    assert step == 5 and nats.mean() == pytest.approx(loss, rel=1e-5)


def test_each_option_of_a_mixture_changes_the_batches(mixture, folder):
    def targets(store):
        plan = TrainingText.open(store).plan(context_length=32, batch_size=8, seed=0)
        return plan.batch(3).targets.tolist()

    base = mixture()
    swapped = {"wiki": str(folder / "code"), "python": str(folder / "python")}
    even = dict.fromkeys(SHARES, 1)
    for other in (replace(base, components=swapped), replace(base, shares=even)):
        assert targets(other) != targets(base)


def test_facts_name_components_and_shares(finished, folder):
    facts = finished.facts
    assert facts["pretraining_data"] == "python 30% + wiki 70%"
    assert (facts["share.wiki"], facts["share.python"]) == (0.7, 0.3)
    assert facts["tokenizer"] == "bytes"
    wiki = TokenStore.open(folder / "wiki")
    assert facts["components"]["wiki"] == {
        "store": str(folder / "wiki"),
        "store_fingerprint": wiki.manifest.fingerprint,
        "share": 7,
        "epochs": pytest.approx(0.7 * 12 * 8 * 32 / wiki.num_tokens),
    }


def test_a_share_of_zero_is_in_the_loss_table(options, folder):
    """The excluded component's store is never opened; its columns are 0, not empty."""
    parts = {"wiki": str(folder / "wiki"), "python": "nowhere"}
    pure = Mixture(components=parts, shares={"wiki": 1.0, "python": 0.0})
    run = train(options(store=pure, name="pure"))
    columns = checkpoint_columns(run, 8)
    assert (columns["share.wiki"], columns["share.python"]) == (1.0, 0.0)
    assert columns["component_tokens.wiki"] == columns["tokens"] == 8 * 8 * 32
    assert columns["component_tokens.python"] == 0
    assert columns["pretraining_data"] == "wiki 100%" and list(run.facts["components"]) == ["wiki"]


def test_config_gin_rebuilds_the_run(finished):
    options = build_options("train", load(), gin_files=[finished.path / "config.gin"])
    assert options.folder == finished.path
    assert options.store.shares == SHARES


def test_identity_contains_contents_and_shares_not_paths(options, mixture, folder, tmp_path):
    base = options(store=mixture())
    assert json.dumps(identity(base)).count(str(folder)) == 0
    columns = option_columns(identity(base))
    assert columns["option.store.shares"] == '{"python": 0.3, "wiki": 0.7}'
    shutil.copytree(folder / "wiki", tmp_path / "moved")
    parts = {"python": str(folder / "python"), "wiki": str(tmp_path / "moved")}
    same = [
        mixture(python=0.3, wiki=0.7),
        mixture(wiki=70, python=30),
        Mixture(components=parts, shares=SHARES),
        Mixture(components={**parts, "gone": "nowhere"}, shares={**SHARES, "gone": 0}),
    ]
    assert {options(store=store).folder for store in same} == {base.folder}
    others = [
        mixture(wiki=0.8, python=0.2),
        mixture(wiki=0.3, python=0.7),
        mixture(wiki=0.7, code=0.3),
        mixture(wiki=1.0, python=0.0),
        str(folder / "wiki"),
        Mixture(components={**parts, "wiki": str(folder / "code")}, shares=SHARES),
    ]
    folders = {options(store=store).folder for store in others}
    assert len(folders) == len(others) and base.folder not in folders


def test_changed_contents_of_a_component_are_another_run(options, mixture, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "parts")
    parts = {name: str(tmp_path / "parts" / name) for name in SHARES}
    chosen = options(store=Mixture(components=parts, shares=SHARES))
    before = chosen.folder
    assert before == options(store=mixture()).folder
    shutil.rmtree(tmp_path / "parts/python")
    write_store(tmp_path / "parts/python", ["x" * 999], ByteVocabulary(), name="python")
    assert chosen.folder != before


def test_component_tokens_are_columns_of_the_loss_table(finished):
    """Cumulative tokens per component: whole rows, within one row of the share."""
    for step in (4, 8, 12):
        columns = checkpoint_columns(finished, step)
        seen = columns["component_tokens.python"], columns["component_tokens.wiki"]
        assert seen[0] % 32 == seen[1] % 32 == 0
        assert abs(seen[0] / 32 - 0.3 * 8 * step) <= 1
        assert sum(seen) == columns["tokens"] == step * 8 * 32
        assert (columns["share.python"], columns["share.wiki"]) == (0.3, 0.7)
        assert columns["pretraining_data"] == "python 30% + wiki 70%"


def test_component_tokens_equal_tokens_in_the_batches(finished, mixture, folder):
    plan = TrainingText.open(mixture()).plan(context_length=32, batch_size=8, seed=0)
    python = TokenStore.open(folder / "python")
    windows = {tuple(row) for row in python.read(0, python.num_tokens // 32 * 32).reshape(-1, 32)}
    for step in (1, 4, 12):
        targets = np.concatenate([plan.batch(k).targets for k in range(step)])
        held = sum(tuple(row) in windows for row in targets)
        assert checkpoint_columns(finished, step)["component_tokens.python"] == 32 * held


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_tables_of_runs_with_different_components_are_joined(finished, tmp_path, suffix):
    """Runs without a component have an empty cell in its columns."""
    measured = {"eval_set": "a", "kind": "validation", "nats": 2.0, "target_tokens": 1}
    row = checkpoint_columns(finished, 4) | measured
    names = [n for n in row if n.startswith(("share.", "component_tokens.", "option."))]
    plain = {name: value for name, value in row.items() if name not in names}
    plain |= {"run_id": "plain", "pretraining_data": "wiki"}
    code = plain | {"run_id": "code", "share.code": 1.0, "component_tokens.code": row["tokens"]}
    for number, rows in enumerate(([row], [plain], [code])):
        tables.write(tables.from_rows(rows), tmp_path / f"{number}{suffix}")
    table = tables.load([tmp_path / f"{number}{suffix}" for number in range(3)])
    tables.write(table, tmp_path / f"all{suffix}")
    table = tables.read(tmp_path / f"all{suffix}").set_index("run_id")
    assert table["share.code"].isna().tolist() == [True, True, False]
    assert table["component_tokens.wiki"].isna().tolist() == [False, True, True]
    assert table.loc[finished.name, "component_tokens.wiki"] == row["component_tokens.wiki"]
    assert table["share.wiki"].dtype == table["component_tokens.code"].dtype == "float64"


GIN = """
train.model = @llama()
train.batch_size = 8
train.steps = 12
train.store = @mixture()
llama.vocab_size = 264
llama.width = 32
llama.layers = 2
llama.heads = 4
llama.mlp_width = 64
llama.context_length = 32
"""


def built(tmp_path, *bindings):
    (tmp_path / "run.gin").write_text(GIN)
    return build_options("train", load(), gin_files=[tmp_path / "run.gin"], bindings=bindings)


def test_gin_binds_a_mixture(tmp_path, folder):
    parts = {name: str(folder / name) for name in SHARES}
    options = built(
        tmp_path, f"mixture.components = {parts!r}", "mixture.shares = {'wiki': 7, 'python': 3}"
    )
    assert options.store == Mixture(components=parts, shares=SHARES | {"wiki": 7, "python": 3})


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"wiki": 1}, "no share for 'python'. Add one"),
        ({"wiki": 1, "pyhton": 1, "python": 1}, "'pyhton' is not in mixture.components"),
        ({"wiki": 1, "python": -1}, r"the share of 'python' is -1\.0. Give a number"),
        ({"wiki": 0, "python": 0}, "no component has a share above 0"),
        ({"wiki": "much", "python": 1}, r"mixture\.shares\['wiki'\] = 'much': must be a number"),
        ([1, 2], "must be a dictionary"),
    ],
)
def test_wrong_shares_raise_one_line(tmp_path, shares, message):
    with pytest.raises(UserError, match=message):
        built(
            tmp_path,
            "mixture.components = {'wiki': 'a', 'python': 'b'}",
            f"mixture.shares = {shares!r}",
        )


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a/b", 'a"'])
def test_component_name_with_special_characters_is_refused(name):
    with pytest.raises(UserError, match="is not a valid name"):
        Mixture(components={name: "a"}, shares={name: 1})


class OtherBytes(ByteVocabulary):
    """The same bytes as another vocabulary."""

    def __init__(self) -> None:
        pieces = [b""] * 3 + [bytes([value]) for value in range(256)]
        Vocabulary.__init__(
            self, name="other", kind="bytes", pieces=pieces, eos_id=1, pad_id=0, content="other"
        )


def test_components_that_do_not_fit_together_write_nothing(options, folder, tmp_path):
    write_store(tmp_path / "words", ["w" * 900], OtherBytes(), name="words")
    write_store(tmp_path / "short", ["w"], ByteVocabulary(), name="short")
    (tmp_path / "again").symlink_to(folder / "wiki")
    for path, message in (
        (tmp_path / "words", "several vocabularies"),
        (tmp_path / "again", "again and .*wiki are the same text"),
        (tmp_path / "short", "fewer than context_length 32"),
    ):
        parts = {"wiki": str(folder / "wiki"), "other": str(path)}
        chosen = options(store=Mixture(components=parts, shares={"wiki": 1, "other": 1}))
        with pytest.raises(UserError, match=message):
            train(chosen)
        assert not chosen.folder.exists()


def test_missing_component_store_is_named(options, folder):
    parts = {"wiki": str(folder / "wiki"), "other": "nowhere/other"}
    chosen = options(store=Mixture(components=parts, shares={"wiki": 1, "other": 1}))
    with pytest.raises(NoStore, match="nowhere/other: no such store"):
        train(chosen)


def test_a_mixture_is_a_level_of_a_study(tmp_path, folder):
    """Bindings of a grid point survive being quoted for a command line and parsed again."""
    (tmp_path / "run.gin").write_text(GIN.replace("train.store = @mixture()\n", ""))
    root = f"train.root = {str(tmp_path / 'runs')!r}"
    parts = {name: str(folder / name) for name in SHARES}
    levels = {
        "plain": [f"train.store = {parts['wiki']!r}"],
        "mixed": [
            "train.store = @mixture()",
            f"mixture.components = {parts!r}",
            f"mixture.shares = {SHARES!r}",
        ],
        "early": [
            "train.store = @mixture()",
            "mixture.components = {'wiki': 'to/come', 'python': 'to/come/too'}",
            f"mixture.shares = {SHARES!r}",
        ],
    }
    runs = {
        name: plan_run(name, [str(tmp_path / "run.gin")], [*lines, root], {"data": name})
        for name, lines in levels.items()
    }
    assert runs["mixed"].fingerprint not in ("", runs["plain"].fingerprint)
    assert runs["early"].folder.name == "run-?" and "to/come" in runs["early"].missing
    files, bindings = _parse_command_line("train", "", {}, list(runs["mixed"].arguments), load)
    again = build_options("train", load(), gin_files=files, bindings=bindings)
    assert again.store == Mixture(components=parts, shares=SHARES)
    assert again.folder == runs["mixed"].folder
