"""From run directories and stores to rows of the loss table: measured, skipped, refused, failed."""

import dataclasses
import functools
import threading

import jax
import numpy as np
import pytest
from flax import nnx

from lossline import models, tables
from lossline.cli.configuration import build_options
from lossline.errors import UserError
from lossline.evaluate import load
from lossline.evaluation import evaluator as evaluator_module
from lossline.evaluation.evaluator import AccuracyAt, EvaluateOptions, Evaluator, evaluate
from lossline.evaluation.losses import RunLosses
from lossline.evaluation.packing import RowLayout
from lossline.evaluation.sets import EvaluationSet
from lossline.runs.run_directory import RunState, RunStatus
from lossline.sharding import MeshOptions
from lossline.stores.task_store import write_task
from lossline.tables.schema import COLUMNS, SetKind
from lossline.vocabularies import ByteVocabulary

from .small_runs import (
    ITEMS,
    LLAMA,
    MAMBA,
    TEXTS,
    add_checkpoints,
    corrupt,
    make_run,
    make_stores,
    params_at,
)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return make_stores(tmp_path_factory.mktemp("stores"))


def options(runs, stores, **changes):
    sets = (
        EvaluationSet(name="wiki", path=f"{stores}/{{tokenizer}}/{{name}}-validation"),
        EvaluationSet(name="sky", path=f"{stores}/{{tokenizer}}/{{name}}", kind=SetKind.TASK),
    )
    defaults = {"sets": sets, "batch_size": 8, "poll_seconds": 0.01, "compilation_cache": "off"}
    return EvaluateOptions(runs=(str(runs),), **(defaults | changes))


@functools.cache
def reference_model(family, step):
    """Return a function tokens [N, 32] -> logits [N, 32, V] with the parameters of a step.

    It computes in float32, without packing.
    """
    config = {"llama": LLAMA, "mamba": MAMBA}[family]
    graph, state = models.abstract_state(dataclasses.replace(config, activation_dtype="float32"))
    nnx.replace_by_pure_dict(state, params_at(config, step))
    return jax.jit(lambda tokens: nnx.merge(graph, state)(tokens))


def float64_nats(config, step, text, *, scored_from=0):
    """Compute the definition one token at a time: its window, its logits, a float64 sum."""
    ids, context, stride = [byte + 3 for byte in text.encode()], 32, 16
    rows, ends = np.zeros((128, context), np.int32), []
    for i in range(scored_from, len(ids)):
        stop = context
        while stop <= i:
            stop += stride
        first = max(0, min(stop, len(ids)) - context)
        inputs = [1, *ids][first : i + 1]
        rows[len(ends), : len(inputs)] = inputs
        ends.append(len(inputs) - 1)
    logits = np.asarray(reference_model(config.family, step)(rows), np.float64)
    logits = logits[np.arange(len(ends)), ends]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -log_p[np.arange(len(ends)), ids[scored_from:]].sum()


@pytest.mark.parametrize("config", [LLAMA, MAMBA], ids=lambda c: c.family)
def test_rows_contain_the_sums_of_the_definition(tmp_path, stores, config):
    run = make_run(tmp_path / "run", config, steps=(2, 5))
    evaluate(options(run.path, stores))
    table = tables.read(run.path / "losses.parquet").set_index(["step", "eval_set"])
    assert len(table) == 4 and (table["status"] == "ok").all()
    wiki = table.loc[5, "wiki"]
    texts = [text for text in TEXTS if text]
    expected = sum(float64_nats(config, 5, text) for text in texts)
    assert wiki["nats"] == pytest.approx(expected, rel=2e-6)
    assert wiki["target_bytes"] == wiki["target_tokens"] == sum(len(t.encode()) for t in texts)
    assert wiki["documents"] == len(texts) and wiki["truncated"] == 0
    assert wiki["loss"] == pytest.approx(expected / wiki["target_tokens"], rel=2e-6)
    assert (wiki["tokens"], wiki["kind"]) == (5 * 64, "validation")
    assert wiki["flops"] == 5 * 64 * config.flops_per_token(32)
    sky = table.loc[5, "sky"]
    golds = [item.choices[item.gold] for item in ITEMS]
    assert sky["target_bytes"] == sum(len(gold) for gold in golds)
    assert sky["questions"] == 3 and sky["kind"] == "task"
    short = [i for i, item in enumerate(ITEMS) if len(item.context + golds[i]) <= 32]
    assert sky["truncated"] == len(ITEMS) - len(short)
    assert table.loc[2, "sky"].isna()["correct"] and 0 <= sky["correct"] <= 3
    assert sky["accuracy"] == sky["correct"] / 3


def test_questions_with_one_answer_get_a_loss_and_no_accuracy(tmp_path, stores):
    solutions = [dataclasses.replace(i, choices=i.choices[:1], gold=0) for i in ITEMS]
    write_task(tmp_path / "code", solutions, ByteVocabulary(), benchmark="code")
    code = EvaluationSet(name="code", path=str(tmp_path / "code"), kind=SetKind.TASK)
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    evaluate(options(run.path, stores, sets=(code,), accuracy=AccuracyAt.ALL))
    row = tables.read(run.path / "losses.parquet").iloc[0]
    assert row["loss"] > 0 and row[["accuracy", "correct"]].isna().all()
    before = (run.path / "losses.parquet").read_bytes()
    evaluate(options(run.path, stores, sets=(code,), accuracy=AccuracyAt.ALL))
    assert (run.path / "losses.parquet").read_bytes() == before  # nothing is measured again


def test_gold_answers_agree_with_the_definition(tmp_path, stores):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    evaluate(options(run.path, stores))
    table = tables.read(run.path / "losses.parquet").set_index("eval_set")
    expected = 0.0
    for item in ITEMS:
        text = item.context + item.choices[item.gold]
        kept = text[-32:] if len(text) > 32 else text
        lost = len(text) - len(kept)
        if lost:
            # The window begins inside the question; its first token is not a target.
            expected += _nats_without_opening(text, len(item.context))
        else:
            expected += float64_nats(LLAMA, 2, text, scored_from=len(item.context))
    assert table.loc["sky", "nats"] == pytest.approx(expected, rel=2e-6)


def _nats_without_opening(text, scored_from):
    ids = [1, *(byte + 3 for byte in text.encode())]
    rows = np.zeros((128, 32), np.int32)
    rows[0] = ids[len(text) - 32 : len(text)]
    targets = ids[len(text) - 31 :]
    logits = np.asarray(reference_model("llama", 2)(rows)[0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scored = len(text) - scored_from
    return -sum(log_p[i, targets[i]] for i in range(32 - scored, 32))


@pytest.mark.parametrize("config", [LLAMA, MAMBA], ids=lambda c: c.family)
def test_results_do_not_depend_on_the_batch_size(tmp_path, stores, config):
    def nats(name, **changes):
        run = make_run(tmp_path / name, config, steps=(2,))
        evaluate(options(run.path, stores, **changes))
        return tables.read(run.path / "losses.parquet")["nats"].to_numpy()

    base = nats("base")
    np.testing.assert_allclose(nats("large", batch_size=64), base, rtol=1e-6)
    np.testing.assert_allclose(nats("padded", rows=RowLayout.PADDED), base, rtol=1e-6)
    mesh = MeshOptions(data=2, fsdp=2, tensor=2)
    np.testing.assert_allclose(nats("mesh", mesh=mesh), base, rtol=1e-6)


def test_measured_rows_are_skipped(tmp_path, stores, capsys):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    evaluate(options(run.path, stores))
    before = tables.read(run.path / "losses.parquet")
    capsys.readouterr()
    evaluate(options(run.path, stores))
    assert "nothing left to measure" in capsys.readouterr().out
    add_checkpoints(run, LLAMA, (4,))
    evaluate(options(run.path, stores))
    assert "2 measured" in capsys.readouterr().out
    after = tables.read(run.path / "losses.parquet")
    assert len(after) == 4
    columns = ["step", "eval_set", "nats", "correct", "x_correct_per_token"]
    assert after["x_correct_per_token"].dtype == float
    kept = after[after["step"] == 2].reset_index(drop=True)
    assert kept[columns].equals(before[columns])


def test_every_option_of_the_run_is_a_column(tmp_path, stores):
    run = make_run(tmp_path / "run", MAMBA, steps=(2,))
    evaluate(options(run.path, stores))
    table = tables.read(run.path / "losses.parquet")
    assert set(table["option.model.state"]) == {"16"}
    assert set(table["option.model.scan_implementation"]) == {"auto"}
    assert {f"option.model.{field.name}" for field in dataclasses.fields(MAMBA)} == {
        name for name in table.columns if name.startswith("option.")
    }


def test_rows_of_an_earlier_version_get_option_columns_without_measuring(tmp_path, stores, capsys):
    """An earlier version of lossline wrote the table without option columns."""
    run = make_run(tmp_path / "run", MAMBA, steps=(2,))
    evaluate(options(run.path, stores))
    path = run.path / "losses.parquet"
    whole = tables.read(path)
    earlier = whole.drop(columns=[n for n in whole if n.startswith("option.")])
    tables.write(earlier, path)
    capsys.readouterr()
    evaluate(options(run.path, stores))
    assert "nothing left to measure" in capsys.readouterr().out
    assert tables.read(path).equals(whole)
    written = path.stat().st_mtime_ns
    evaluate(options(run.path, stores))
    assert path.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "changes",
    [
        {"stride": 7},
        {"context": 16},
        {"activations": "bfloat16"},
        {"accuracy": AccuracyAt.ALL},
    ],
    ids=lambda c: next(iter(c)),
)
def test_rows_measured_with_other_options_are_replaced(tmp_path, stores, changes):
    run = make_run(tmp_path / "run", LLAMA, steps=(2, 4))
    evaluate(options(run.path, stores))
    before = tables.read(run.path / "losses.parquet")
    evaluate(options(run.path, stores, **changes))
    after = tables.read(run.path / "losses.parquet")
    assert len(after) == len(before) == 4
    if "accuracy" in changes:
        assert after.loc[after["kind"] == "task", "correct"].notna().all()
    else:
        assert not after["x_rule"].equals(before["x_rule"]) or "activations" in changes
        assert (after["nats"] != before["nats"]).any()


def test_a_set_is_added_to_a_table_of_an_earlier_version(tmp_path, stores):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    evaluate(options(run.path, stores))
    path = run.path / "losses.parquet"
    whole = tables.read(path)
    added = [column.name for column in COLUMNS if column.added]
    whole[whole["eval_set"] == "wiki"].drop(columns=added).to_parquet(path)
    evaluate(options(run.path, stores))
    assert tables.read(path)["trained_tokens"].tolist() == whole["trained_tokens"].tolist()
    assert len(whole) == 2 and whole["trained_tokens"].notna().all()


def test_changed_store_is_measured_again(tmp_path):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    evaluate(options(run.path, make_stores(tmp_path / "one")))
    from lossline.stores.store_writer import write_store

    other = make_stores(tmp_path / "two")
    wiki = other / "bytes" / "wiki-validation"
    wiki.rename(wiki.with_name("old"))
    write_store(wiki, ["other words"], ByteVocabulary(), name="wiki")
    evaluate(options(run.path, other))
    table = tables.read(run.path / "losses.parquet").set_index("eval_set")
    assert len(table) == 2 and table.loc["wiki", "target_bytes"] == len("other words")


def test_corrupt_checkpoint_gives_a_failed_row_and_others_are_measured(tmp_path, stores, capsys):
    run = make_run(tmp_path / "run", LLAMA)
    corrupt(run, 4)
    evaluate(options(run.path, stores))
    table = tables.read(run.path / "losses.parquet").set_index(["step", "eval_set"])
    failed = table.loc[4, "wiki"]
    assert failed["status"] == "failed" and "corrupt" in failed["message"]
    assert failed[["nats", "loss", "bits_per_byte"]].isna().all()
    assert (table.drop(4, level="step")["status"] == "ok").all()
    assert "2 failed" in capsys.readouterr().out
    # After the repair it is measured like any other checkpoint.
    add_checkpoints(run, LLAMA, (4,))
    evaluate(options(run.path, stores))
    assert (tables.read(run.path / "losses.parquet")["status"] == "ok").all()


def test_nan_loss_gives_a_failed_row(tmp_path, stores):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    from lossline.runs.checkpoints import CheckpointWriter

    params = jax.tree.map(lambda p: p * np.nan, params_at(LLAMA, 4))
    writer = CheckpointWriter(run, data="data")
    writer.save(4, {"params": params, "optimizer": {}}, kept=True)
    writer.close()
    evaluate(options(run.path, stores))
    table = tables.read(run.path / "losses.parquet").set_index(["step", "eval_set"])
    assert "not finite" in table.loc[(4, "wiki"), "message"]
    assert np.isnan(table.loc[(4, "wiki"), "nats"])
    assert table.loc[(2, "wiki"), "status"] == "ok"


def test_killed_evaluation_continues_after_the_last_written_checkpoint(
    tmp_path, stores, monkeypatch, capsys
):
    run = make_run(tmp_path / "run", LLAMA)

    class Killed(BaseException):
        pass

    put = RunLosses.put

    def dying(self, rows):
        if self._rows:
            raise Killed
        put(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RunLosses, "put", dying)
        with pytest.raises(Killed):
            evaluate(options(run.path, stores))
    assert set(tables.read(run.path / "losses.parquet")["step"]) == {2}
    capsys.readouterr()
    evaluate(options(run.path, stores))
    assert "4 measured" in capsys.readouterr().out
    whole = make_run(tmp_path / "whole", LLAMA)
    evaluate(options(whole.path, stores))
    columns = ["step", "eval_set", "nats", "correct", "target_bytes"]
    resumed, fresh = (tables.read(r.path / "losses.parquet")[columns] for r in (run, whole))
    assert resumed.equals(fresh)


def test_watch_measures_until_the_run_has_ended(tmp_path, stores, monkeypatch):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,), state=RunState.RUNNING)
    naps = []

    def nap(seconds):
        naps.append(len(tables.read(run.path / "losses.parquet")))
        if len(naps) == 2:
            add_checkpoints(run, LLAMA, (4,))
            run.write_status(RunStatus(state=RunState.FINISHED, step=4))

    monkeypatch.setattr(evaluator_module.time, "sleep", nap)
    with run.lock():  # as a training holds it
        evaluate(options(run.path, stores, watch=True))
    table = tables.read(run.path / "losses.parquet").set_index(["step", "eval_set"])
    assert naps == [2, 2] and len(table) == 4
    # Before the end it was unknown which checkpoint is the last one.
    assert np.isnan(table.loc[(2, "sky"), "accuracy"])
    assert table.loc[(4, "sky"), "accuracy"] >= 0


def test_watch_ends_when_the_run_was_killed(tmp_path, stores):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,), state=RunState.RUNNING)
    evaluator = Evaluator(options(run.path, stores, watch=True))
    done = threading.Thread(target=evaluator.run, daemon=True)
    done.start()
    done.join(timeout=60)
    assert not done.is_alive()


def test_folder_of_runs_with_one_without_checkpoints(tmp_path, stores, capsys):
    make_run(tmp_path / "runs" / "llama", LLAMA, steps=(2,))
    make_run(tmp_path / "runs" / "mamba", MAMBA, steps=(2,))
    make_run(tmp_path / "runs" / "young", LLAMA, steps=(), state=RunState.RUNNING)
    (tmp_path / "runs" / ".compilation_cache").mkdir()
    evaluate(options(tmp_path / "runs", stores))
    assert "no checkpoint yet in young" in capsys.readouterr().out
    table = tables.load(tmp_path / "runs")
    assert set(table["run_id"]) == {"llama", "mamba"} and len(table) == 4


def test_user_errors_are_raised_before_anything_is_measured(tmp_path, stores):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    good = options(run.path, stores)

    def refused(match, **changes):
        with pytest.raises(UserError, match=match):
            evaluate(dataclasses.replace(good, **changes))
        assert not (run.path / "losses.parquet").exists()

    refused("does not exist", runs=(str(tmp_path / "nowhere"),))
    refused("contains no config.json", runs=(str(stores),))
    refused("evaluate.runs is empty", runs=())
    refused("evaluate.sets is empty", sets=())
    refused("two sets are named 'wiki'", sets=(good.sets[0], good.sets[0]))
    refused("no such store", sets=(EvaluationSet(name="x", path=str(tmp_path / "absent")),))
    refused(r"contains \{language\}", sets=(EvaluationSet(name="x", path="{language}/y"),))
    refused("batch_size = 0", batch_size=0)
    refused("batch_size 6 is not divisible", batch_size=6)
    refused("stride = 40", stride=40)
    refused("stride = 0", stride=0)
    refused("context = 0", context=0)
    refused("poll_seconds = -1.0", poll_seconds=-1.0)
    from lossline.stores.store_writer import write_store

    write_store(tmp_path / "empty", ["", ""], ByteVocabulary(), name="empty")
    refused("no text to score", sets=(EvaluationSet(name="x", path=str(tmp_path / "empty")),))
    with pytest.raises(UserError, match="max_documents = 0"):
        EvaluationSet(name="x", path="y", max_documents=0)


def test_store_of_another_vocabulary_is_refused(tmp_path, stores):
    class OtherBytes(ByteVocabulary):
        def __init__(self):
            super().__init__()
            self.facts = dataclasses.replace(self.facts, name="other", hash="0" * 64)

    run = make_run(tmp_path / "run", LLAMA, steps=(2,), vocabulary=OtherBytes())
    bad = (EvaluationSet(name="wiki", path=f"{stores}/bytes/wiki-validation"),)
    with pytest.raises(UserError, match="made with vocabulary bytes"):
        evaluate(options(run.path, stores, sets=bad))


def test_a_step_that_no_run_has_is_named(tmp_path, stores, capsys):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    evaluate(options(run.path, stores, steps=(2, 3, 7)))
    assert "no run has a checkpoint at step 3, 7\n" in capsys.readouterr().out


def test_second_evaluation_of_a_run_is_refused(tmp_path, stores):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    with RunLosses(run.path), pytest.raises(UserError, match="is evaluating this run"):
        evaluate(options(run.path, stores))


def test_shipped_gin_file_resolves(repository):
    built = build_options(
        "evaluate",
        load(),
        gin_files=[repository / "gin_configs" / "evaluation" / "quickstart.gin"],
        bindings=["evaluate.runs = ['runs/quickstart']"],
    )
    assert [s.name for s in built.sets if s.kind is SetKind.TASK] == ["hellaswag", "arc_easy"]
    assert built.sets[0].path_for({"tokenizer": "bpe"}).parts[-3:] == ("bpe", "wiki", "validation")
