"""From a pool, its stores and run directories to scores: sums, resume, refusals, failures."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from evaluation.small_runs import LLAMA, MAMBA, corrupt, make_run, params_at

from lossline import tables
from lossline.cli.configuration import run_verb
from lossline.corpora.pools import Pool
from lossline.corpora.sources import Subset
from lossline.errors import UserError
from lossline.evaluation.evaluator import EvaluateOptions, evaluate
from lossline.evaluation.packing import RowLayout
from lossline.evaluation.scorer import Scorer
from lossline.evaluation.sets import EvaluationSet
from lossline.evaluation.windows import LongDocuments
from lossline.runs.checkpoints import CheckpointWriter
from lossline.score import FLAGS, load
from lossline.scoring import score_pool
from lossline.scoring.score_pool import ScoreOptions, score
from lossline.sharding import MeshOptions
from lossline.stores.jobs import text_job
from lossline.stores.prepare_all import PrepareOptions, StoreJob, prepare
from lossline.stores.store_writer import write_store
from lossline.tables import scores
from lossline.vocabularies import ByteVocabulary

DOMAINS = ("law", "wiki", "é")


def page(domain, number):
    """A page of 8 to 90 bytes: some shorter, some longer than the context of 32."""
    length = 8 + (13 * number + 7 * DOMAINS.index(domain)) % 80
    return (f"{domain} page {number}, " + "words and é " * 9)[:length] + "."


def write_pool(folder, *, pages=60, change=lambda domain, number, text: text):
    """Write a pool of three domains; returns its options."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"domain": d, "text": change(d, n, page(d, n))})
        for d in DOMAINS
        for n in range(pages)
    ]
    (folder / "pages.jsonl").write_text("\n".join(lines) + "\n")
    return Pool(files=(str(folder / "pages.jsonl"),), scored_pages=12, validation_share=0.4)


def write_pool_store(folder, pool, vocabulary=None):
    vocabulary = vocabulary or ByteVocabulary()
    texts = [page.text for page in pool.scored()]
    job = text_job(pool, "scored", Subset(), vocabulary.hash)
    write_store(folder / vocabulary.name / pool.name / "scored", texts, vocabulary, job=job)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return (pool, folder of stores), the same for all tests."""
    folder = tmp_path_factory.mktemp("pool")
    pool = write_pool(folder)
    write_pool_store(folder / "stores", pool)
    return pool, folder / "stores"


def options(runs, data, out, **changes):
    pool, stores = data
    defaults = {
        "pool": pool,
        "store": f"{stores}/{{tokenizer}}/{{name}}/scored",
        "batch_size": 8,
        "shard_tokens": 300,
        "compilation_cache": "off",
    }
    return ScoreOptions(runs=(str(runs),), out=str(out), **(defaults | changes))


@pytest.mark.parametrize("config", [LLAMA, MAMBA], ids=lambda c: c.family)
@pytest.mark.parametrize("long_documents", LongDocuments)
def test_sums_of_a_domain_are_those_of_evaluate(tmp_path, data, config, long_documents):
    """A store of its own for each domain, measured by evaluate with one text per row."""
    run = make_run(tmp_path / "run", config, steps=(2, 5))
    origin = {"start_run": "base", "start_step": 7, "start_tokens": 700.0, "start_flops": 4e6}
    (run.path / "facts.json").write_text(json.dumps(run.facts | origin))
    shared = {"rows": RowLayout.PADDED, "long_documents": long_documents}
    table = score(options(run.path, data, tmp_path / "out", **shared)).set_index("name")
    sets = []
    for number, domain in enumerate(DOMAINS):
        texts = [page.text for page in data[0].scored() if page.domain == domain]
        assert 0 < len(texts) <= 12
        write_store(tmp_path / f"{number}", texts, ByteVocabulary(), name="own")
        sets.append(EvaluationSet(name=domain, path=str(tmp_path / f"{number}")))
    evaluate(
        EvaluateOptions(
            runs=(str(run.path),), sets=tuple(sets), steps=(5,), batch_size=8,
            compilation_cache="off", **shared,
        )
    )  # fmt: skip
    expected = tables.read(run.path / "losses.parquet").set_index("eval_set")
    assert list(table.index) == list(DOMAINS)
    for domain in DOMAINS:
        ours, theirs = table.loc[domain], expected.loc[domain]
        assert ours["nats"] == pytest.approx(theirs["nats"], rel=1e-13)
        for name in ("target_tokens", "target_bytes", "truncated"):
            assert ours[name] == theirs[name]
        assert ours["pages"] == theirs["documents"] and ours["rule"] == theirs["x_rule"]
        assert ours["value"] == pytest.approx(theirs["bits_per_byte"], rel=1e-13)
    assert (table["step"] == 5).all() and (table["tokens"] == 5 * 64).all()
    for name, value in origin.items():
        assert (table[name] == value).all() and (expected[name] == value).all()
    assert (table["truncated"].sum() > 0) == (long_documents is LongDocuments.TRUNCATE)
    assert set(table["pool"]) == {data[0].fingerprint()}


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 64}, {"shard_tokens": 10**9}, {"shard_tokens": 1}, {"rows": RowLayout.PADDED}],
    ids=str,
)
def test_sums_do_not_depend_on_batches_and_shards(tmp_path, data, changes):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    base = score(options(run.path, data, tmp_path / "base"))
    other = score(options(run.path, data, tmp_path / "other", **changes))
    np.testing.assert_allclose(other["nats"], base["nats"], rtol=1e-6)
    exact = ["target_tokens", "target_bytes", "pages", "truncated"]
    assert other[exact].equals(base[exact])


def test_rows_are_split_over_devices(tmp_path, data):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    base = score(options(run.path, data, tmp_path / "base"))
    mesh = MeshOptions(data=2, fsdp=2, tensor=2)
    other = score(options(run.path, data, tmp_path / "mesh", mesh=mesh))
    np.testing.assert_allclose(other["nats"], base["nats"], rtol=1e-6)


def test_a_killed_scoring_continues_with_the_next_shard_and_ends_the_same(
    tmp_path, data, monkeypatch
):
    for name, step in (("a", 2), ("b", 3)):
        make_run(tmp_path / "runs" / name, LLAMA, steps=(step,))
    whole = options(tmp_path / "runs", data, tmp_path / "whole")
    score(whole)
    shards = list((tmp_path / "whole").glob("scores.shards/*/*.npy"))
    assert len(shards) > 6

    class Killed(BaseException):
        pass

    calls = []
    original = score_pool.nats_of

    def counted(scorer, state, texts, *, dies_after=None):
        if len(calls) == dies_after:
            raise Killed
        calls.append(1)
        return original(scorer, state, texts)

    part = dataclasses.replace(whole, out=str(tmp_path / "part"))
    stop = len(shards) // 2 + 1  # in the second model
    with monkeypatch.context() as patch:
        patch.setattr(score_pool, "nats_of", lambda *a: counted(*a, dies_after=stop))
        with pytest.raises(Killed):
            score(part)
    assert not (tmp_path / "part" / "scores.parquet").exists()
    calls.clear()
    with monkeypatch.context() as patch:
        patch.setattr(score_pool, "nats_of", counted)
        score(part)
    assert len(calls) == len(shards) - stop
    tables_ = [(tmp_path / name / "scores.parquet").read_bytes() for name in ("whole", "part")]
    assert tables_[0] == tables_[1]


def test_a_finished_table_computes_nothing_and_a_new_model_is_added(tmp_path, data, capsys):
    make_run(tmp_path / "runs" / "a", LLAMA, steps=(2,))
    score(options(tmp_path / "runs", data, tmp_path / "out"))
    first = scores.read(tmp_path / "out" / "scores.parquet")
    capsys.readouterr()
    score(options(tmp_path / "runs", data, tmp_path / "out"))
    assert "1 models, 3 domains; nothing left to score" in capsys.readouterr().out
    make_run(tmp_path / "runs" / "b", MAMBA, steps=(2,))
    table = score(options(tmp_path / "runs", data, tmp_path / "out"))
    assert table[table["model"] == "a"].reset_index(drop=True).equals(first)
    assert table["model"].unique().tolist() == ["a", "b"]
    with pytest.raises(UserError, match=r"contains scores of 'a', which is not in score\.runs"):
        score(options(tmp_path / "runs" / "b", data, tmp_path / "out"))


def test_a_damaged_shard_is_measured_again(tmp_path, data):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    first = score(options(run.path, data, tmp_path / "out"))
    files = sorted(tmp_path.glob("out/scores.shards/*/*.npy"))
    damaged = [b"", b"junk", files[2].read_bytes()[:-8]]
    for values in (np.zeros(1), np.full(np.load(files[4]).shape, np.nan)):
        content = io.BytesIO()
        np.save(content, values)
        damaged.append(content.getvalue())
    for file, content in zip(files, damaged, strict=False):
        file.write_bytes(content)
    assert score(options(run.path, data, tmp_path / "out")).equals(first)


@pytest.mark.parametrize(
    "changes", [{"stride": 7}, {"context": 16}, {"activations": "bfloat16"}, {"step": 2}], ids=str
)
def test_other_options_and_other_parameters_are_measured_again(tmp_path, data, changes):
    run = make_run(tmp_path / "run", LLAMA, steps=(2, 4))
    one = {"shard_tokens": 10**9}  # one shard, whatever the windows are
    first = score(options(run.path, data, tmp_path / "out", **one))
    other = score(options(run.path, data, tmp_path / "out", **one, **changes))
    assert (first["nats"] != other["nats"]).any()


def test_a_run_trained_again_is_measured_again(tmp_path, data):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    first = score(options(run.path, data, tmp_path / "out"))
    writer = CheckpointWriter(run, data="data")
    shutil.rmtree(run.path / "checkpoints" / "2")
    writer.save(2, {"params": params_at(LLAMA, 3), "optimizer": {}}, kept=True)
    writer.close()
    assert (score(options(run.path, data, tmp_path / "out"))["nats"] != first["nats"]).all()


def test_failed_models_are_rows_and_the_others_are_whole(tmp_path, data, capsys, monkeypatch):
    runs = tmp_path / "runs"
    make_run(runs / "good", LLAMA, steps=(2,))
    corrupt(make_run(runs / "corrupt", LLAMA, steps=(2,)), 2)
    broken = make_run(runs / "manifest", LLAMA, steps=(2,))
    manifest = broken.path / "checkpoints" / "2" / "manifest.json"
    manifest.write_text(json.dumps({"kept": True}))
    make_run(runs / "young", LLAMA, steps=())
    nan = make_run(runs / "nan", LLAMA, steps=())
    writer = CheckpointWriter(nan, data="data")
    params = jax.tree.map(lambda p: p * np.nan, params_at(LLAMA, 4))
    writer.save(4, {"params": params, "optimizer": {}}, kept=True)
    writer.close()
    make_run(runs / "large", MAMBA, steps=(2,))
    original = Scorer.nats_per_text

    def small_memory(self, state, texts):
        if "Mamba" in str(self._graphdef):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return original(self, state, texts)

    monkeypatch.setattr(Scorer, "nats_per_text", small_memory)
    table = score(options(runs, data, tmp_path / "out"))
    said = capsys.readouterr().out
    assert len(table) == 6 * 3
    status = table.groupby("model")["status"].unique().map(list).to_dict()
    assert status.pop("good") == ["ok"]
    assert set(map(tuple, status.values())) == {("failed",)}
    message = table.groupby("model")["message"].first()
    assert "corrupt" in message["corrupt"] and "malformed" in message["manifest"]
    assert "no kept checkpoint" in message["young"] and "not finite" in message["nan"]
    assert "RESOURCE_EXHAUSTED" in message["large"]
    assert "15 of 18 rows failed" in said
    assert all(name in said.splitlines()[-1] for name in status)
    alone = score(options(runs / "good", data, tmp_path / "alone"))
    good = table[table["model"] == "good"].reset_index(drop=True)
    assert good.equals(alone)
    monkeypatch.setattr(Scorer, "nats_per_text", original)
    again = score(options(runs, data, tmp_path / "out"))  # failures are tried again
    assert set(again.loc[again["model"] == "large", "status"]) == {"ok"}


def test_pages_of_all_domains_share_rows(tmp_path, capsys):
    pool = dataclasses.replace(write_pool(tmp_path / "many", pages=400), scored_pages=150)
    write_pool_store(tmp_path / "stores", pool)
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    score(options(run.path, (pool, tmp_path / "stores"), tmp_path / "out", shard_tokens=8000))
    said = capsys.readouterr().out.splitlines()[-1]
    padding = float(said.rpartition("padding ")[2].rstrip("%"))
    assert 0 < padding < 5
    computed = int(said.split("; ")[-1].split(" tokens")[0].replace(",", ""))
    assert computed > sum(len(p.text.encode()) for p in pool.scored())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, n, t: t if n else t + " more", "the pool has changed since it was tokenized"),
        (lambda d, n, t: t.replace("words", "wards"), "the pool has changed|was made of other pa"),
    ],
    ids=["longer", "same length"],
)
def test_a_pool_changed_since_it_was_tokenized_is_one_line(tmp_path, data, change, message):
    pool = write_pool(tmp_path / "changed", change=change)
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    with pytest.raises(UserError, match=message) as caught:
        score(options(run.path, (pool, data[1]), tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_texts_of_equal_sizes_are_told_apart(tmp_path, data):
    """The store's documents have the sizes of the pages but are other texts."""
    pool, _ = data
    texts = ["x" * len(page.text.encode()) for page in pool.scored()]
    write_store(tmp_path / "bytes" / "pool" / "scored", texts, ByteVocabulary())
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    with pytest.raises(UserError, match="was made of other pages than those that pool pool has"):
        score(options(run.path, (pool, tmp_path), tmp_path / "out"))


def test_user_errors_are_raised_before_anything_is_measured(tmp_path, data):
    run = make_run(tmp_path / "one" / "run", LLAMA, steps=(2,))
    make_run(tmp_path / "two" / "run", LLAMA, steps=(2,))
    good = options(run.path, data, tmp_path / "out")

    def refused(match, **changes):
        with pytest.raises(UserError, match=match) as caught:
            score(dataclasses.replace(good, **changes))
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out" / "scores.parquet").exists()

    refused(r"score\.runs is empty", runs=())
    refused("both named 'run'", runs=(str(tmp_path / "one"), str(tmp_path / "two")))
    refused("no such store", store="absent/{tokenizer}")
    refused(r"contains \{language\}", store="{language}/y")
    refused(r"score\.batch_size 6 is not divisible", batch_size=6)
    refused("stride = 40", stride=40)
    refused("step = 'first'", step="first")
    refused("shard_tokens = 0", shard_tokens=0)
    refused(r"score\.family = 'color'", family="color")
    refused("is a URL", out="gs://bucket/scores")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    refused("is not a score table", out=str(tmp_path / "notes.csv"))


def test_a_family_is_a_fact_of_the_run(tmp_path, data):
    for name, config in (("a", LLAMA), ("b", LLAMA), ("c", MAMBA)):
        make_run(tmp_path / "runs" / name, config, steps=(2,))
    table = score(options(tmp_path / "runs", data, tmp_path / "s.csv", family="architecture"))
    families = dict(zip(table["model"], table["family"], strict=True))
    assert families == {"a": "llama", "b": "llama", "c": "mamba"}
    assert scores.read(tmp_path / "s.csv")["family"].tolist() == table["family"].tolist()


def test_a_second_writer_is_refused(tmp_path, data, monkeypatch):
    run = make_run(tmp_path / "run", LLAMA, steps=(2,))
    good = options(run.path, data, tmp_path / "out")
    original = score_pool.nats_of

    def second(*arguments):
        monkeypatch.setattr(score_pool, "nats_of", original)
        with pytest.raises(UserError, match=r"scores\.parquet: process \d+ on .* is writing it"):
            score(good)
        return original(*arguments)

    monkeypatch.setattr(score_pool, "nats_of", second)
    score(good)


def test_a_store_that_prepare_makes_is_scored_from_the_command_line(tmp_path, capsys):
    pool = write_pool(tmp_path)
    job = StoreJob(vocabulary="bytes", sets=(pool,), splits=("scored",))
    prepare(PrepareOptions(stores=(job,), out=str(tmp_path / "stores"), processes=1))
    make_run(tmp_path / "runs" / "a", LLAMA, steps=(2,))
    (tmp_path / "score.gin").write_text(
        f"""
score.runs = %gin.REQUIRED
score.pool = @pool()
score.store = "{tmp_path}/stores/{{tokenizer}}/{{name}}/scored"
score.compilation_cache = "off"
pool.files = {pool.files!r}
pool.scored_pages = {pool.scored_pages}
pool.validation_share = {pool.validation_share}
"""
    )
    words = [f"--gin_file={tmp_path}/score.gin", "--runs", str(tmp_path / "runs")]
    words += ["--out", str(tmp_path / "s.parquet")]
    run_verb("score", "", load, flags=FLAGS, argv=words)
    table = scores.read(tmp_path / "s.parquet")
    assert table["name"].tolist() == list(DOMAINS) and (table["status"] == "ok").all()
    with pytest.raises(SystemExit) as end:
        run_verb("score", "", load, flags=FLAGS, argv=[*words, "--gin.pool.scored_pages=3"])
    assert end.value.code == 2
    assert "the pool has changed since it was tokenized" in capsys.readouterr().err
