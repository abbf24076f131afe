"""``prepare`` makes stores once, trains vocabularies, and resolves the shipped gin files."""

import bz2
import gzip
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lossline import vocabularies
from lossline.cli.configuration import build_options
from lossline.corpora.deduplication import content_hash
from lossline.corpora.sources import (
    JsonLines,
    Parquet,
    PlainFiles,
    SeqioTask,
    Subset,
    Tfds,
    documents,
    text_bytes,
)
from lossline.errors import UserError
from lossline.stores import prepare_all
from lossline.stores.prepare_all import PrepareOptions, StoreJob, prepare
from lossline.stores.store_writer import write_store
from lossline.stores.task_store import TaskStore
from lossline.stores.token_store import TokenStore
from lossline.stores.vocabulary_training import TrainVocabulary
from lossline.vocabularies import Bytes
from lossline.vocabularies.training import Algorithm

TEXTS = [f"Text {i}: the number {i * i} é語 is a number.\n" * (i % 5 + 1) for i in range(50)]


def write_lines(path: Path, texts: list[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root as ``gather`` writes it, with the set "demo" and the benchmark "toy"."""
    folder = tmp_path / "root" / "text" / "demo"
    write_lines(folder / "train.jsonl", TEXTS)
    write_lines(folder / "validation.jsonl", TEXTS[:10])
    (folder / "provenance.json").write_text(json.dumps({"content_license": "CC0-1.0"}))
    folder = tmp_path / "root" / "benchmarks" / "toy"
    folder.mkdir(parents=True)
    item = {"id": "1", "context": "One?", "choices": [" yes", " no"], "gold": 1}
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    facts = {"content_license": "MIT", "split": "test", "packages": [{"requirement": "toy==1"}]}
    (folder / "provenance.json").write_text(json.dumps(facts))
    return tmp_path / "root"


def options(root: Path, *jobs: StoreJob, **others) -> PrepareOptions:
    return PrepareOptions(root=str(root), stores=jobs, processes=1, **others)


def no_tensorflow() -> None:
    pytest.fail("TensorFlow was imported although no store had to be made")


def test_sets_and_tasks_are_prepared_once(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    job = StoreJob(vocabulary="bytes", sets=("demo",), tasks=("toy",))
    prepare(options(root, job))
    stores = root / "stores" / "bytes"
    store = TokenStore.open(stores / "demo" / "train", verify=True)
    vocabulary = vocabularies.load("bytes")
    assert [vocabulary.decode(store.document(i)[:-1]) for i in range(50)] == TEXTS
    assert (store.manifest.name, store.manifest.split) == ("demo", "train")
    assert store.manifest.license == "CC0-1.0" and "seqio Task" in store.manifest.source_task
    assert TokenStore.open(stores / "demo" / "validation").num_documents == 10
    assert TaskStore.open(stores / "tasks" / "toy", verify=True).question(0).gold == 1
    capfd.readouterr()
    monkeypatch.setattr(prepare_all, "_import_seqio_tasks", no_tensorflow)
    prepare(options(root, job))
    out = capfd.readouterr()
    assert "0 stores made, 3 already prepared" in out.out
    assert out.err.count("already prepared") == 3


def test_store_is_never_overwritten_with_another_text_or_limit(root: Path) -> None:
    job = StoreJob(vocabulary="bytes", sets=("demo",), splits=("validation",))
    prepare(options(root, job))
    limited = StoreJob(vocabulary="bytes", sets=("demo",), splits=("validation",), max_documents=3)
    with pytest.raises(UserError, match="contains another store"):
        prepare(options(root, limited))
    write_lines(root / "text" / "demo" / "validation.jsonl", TEXTS[:11])
    with pytest.raises(UserError, match="contains another store"):
        prepare(options(root, job))
    assert TokenStore.open(root / "stores/bytes/demo/validation").num_documents == 10


def test_truncated_store_is_refused(root: Path) -> None:
    job = StoreJob(vocabulary="bytes", sets=("demo",), splits=("validation",))
    prepare(options(root, job))
    file = root / "stores/bytes/demo/validation/tokens/c/0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        prepare(options(root, job))


def test_vocabularies_are_trained_once_and_found_by_name(root: Path) -> None:
    trained = (
        TrainVocabulary(name="b", algorithm=Algorithm.BPE, vocab_size=300, sets=("demo",)),
        TrainVocabulary(name="u", algorithm=Algorithm.UNIGRAM, vocab_size=290, sets=("demo",)),
    )
    prepare(options(root, train_vocabulary=True, vocabularies=trained))
    files = [
        root / "vocabularies" / "b" / "tokenizer.json",
        root / "vocabularies" / "u" / "spiece.model",
    ]
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    prepare(options(root, train_vocabulary=True, vocabularies=trained))
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]
    again = PrepareOptions(root=str(root), train_vocabulary=True, vocabularies=trained, processes=1)
    prepare(again)
    changed = TrainVocabulary(name="b", algorithm=Algorithm.BPE, vocab_size=301, sets=("demo",))
    with pytest.raises(UserError, match="contains another vocabulary"):
        prepare(options(root, train_vocabulary=True, vocabularies=(changed,)))

    jobs = [
        StoreJob(vocabulary=v, sets=("demo",), splits=("validation",)) for v in ("b", "u", "bytes")
    ]
    prepare(options(root, *jobs))
    stores = [
        TokenStore.open(root / "stores" / v / "demo" / "validation") for v in ("b", "u", "bytes")
    ]
    for store in stores:  # tokens differ, but every document has the same bytes
        np.testing.assert_array_equal(store.document_bytes, stores[0].document_bytes)
        sums = np.add.reduceat(
            store.token_bytes[store.read(0, store.num_tokens)], store.offsets[:-1]
        )
        np.testing.assert_array_equal(sums, store.document_bytes)
    assert len({store.num_tokens for store in stores}) == 3
    with pytest.raises(UserError, match="made with vocabulary b"):
        TokenStore.open(stores[0].location, vocabulary_hash=stores[1].manifest.vocabulary.hash)


def test_vocabulary_training_is_deterministic(root: Path, tmp_path: Path) -> None:
    for algorithm, size in ((Algorithm.BPE, 300), (Algorithm.UNIGRAM, 290)):
        hashes = set()
        for copy in range(2):
            other = tmp_path / f"{algorithm.value}{copy}"
            (other / "text").mkdir(parents=True)
            (other / "text" / "demo").symlink_to(root / "text" / "demo")
            spec = TrainVocabulary(name="v", algorithm=algorithm, vocab_size=size, sets=("demo",))
            prepare(options(other, train_vocabulary=True, vocabularies=(spec,)))
            (path,) = (
                p for p in (other / "vocabularies" / "v").iterdir() if "provenance" not in p.name
            )
            hashes.add(vocabularies.load(str(path)).hash)
        assert len(hashes) == 1


def zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


@pytest.mark.parametrize(
    ("suffix", "compress"), [(".gz", gzip.compress), (".zst", zstd), (".bz2", bz2.compress)]
)
def test_compressed_file_gives_the_same_documents(
    tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"a.json{suffix}"
    lines = Path(write_lines(tmp_path / "a.jsonl", TEXTS)).read_bytes()
    half = lines.index(b"\n", len(lines) // 2) + 1
    path.write_bytes(compress(lines[:half]) + compress(lines[half:]))  # like concatenated shards
    source = JsonLines(name="lines", train=(str(path),))
    assert list(documents(source, "train")) == list(TEXTS)
    assert text_bytes(source, "train", Subset()) == 0
    assert text_bytes(source, "train", Subset(max_megabytes=2)) == 2_000_000
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"not JSON lines in UTF-8 \("):
        list(documents(source, "train"))


def test_own_files_and_seqio_tasks_become_stores(root: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    lines = write_lines(tmp_path / "own" / "a.jsonl", TEXTS)
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), tmp_path / "own" / "a.parquet")
    for i, text in enumerate(TEXTS):
        (tmp_path / "own" / f"{i:03}.txt").write_text(text)
    (tmp_path / "own_tasks.py").write_text(OWN_TASKS)
    sources = (
        JsonLines(name="lines", train=(lines,)),
        Parquet(name="parquet", train=(str(tmp_path / "own" / "*.parquet"),), column="body"),
        PlainFiles(name="plain-files", train=(str(tmp_path / "own" / "*.txt"),)),
        SeqioTask(name="task", task="own_text", modules=("own_tasks",)),
        SeqioTask(name="ids", task="own_ids", modules=("own_tasks",), feature="targets"),
        SeqioTask(name="mixture", task="own_mixture", modules=("own_tasks",)),
    )
    sys.path.insert(0, str(tmp_path))
    try:
        prepare(options(root, StoreJob(vocabulary="bytes", sets=sources, splits=("train",))))
        stores = {
            s.name: TokenStore.open(root / "stores/bytes" / s.name / "train") for s in sources
        }
        expected = stores["lines"].manifest.fingerprint
        for name in ("parquet", "plain-files"):
            assert stores[name].manifest.fingerprint == expected
        own = [vocabularies.load("bytes").decode(stores["task"].document(i)[:-1]) for i in range(3)]
        assert own == ["own 0 é", "own 1 é", "own 2 é"]
        assert stores["ids"].manifest.fingerprint == stores["task"].manifest.fingerprint
        assert 3 <= stores["mixture"].num_documents <= 6  # ends when one Task is exhausted
        again = (SeqioTask(name="again", task="own_mixture", modules=("own_tasks",)),)
        prepare(options(root, StoreJob(vocabulary="bytes", sets=again, splits=("train",))))
        drawn_again = TokenStore.open(root / "stores/bytes/again/train")
        assert drawn_again.manifest.fingerprint == stores["mixture"].manifest.fingerprint
        for wrong, message in (
            (SeqioTask(name="x", task="nope"), "no Task or Mixture 'nope'"),
            (SeqioTask(name="x", task="own_text", modules=("no_such_module",)), "no_such_module"),
            (SeqioTask(name="x", task="own_text", feature="inputs"), "no feature 'inputs'"),
            (
                SeqioTask(name="x", task="own_lossy", feature="targets"),
                "may not restore the exact text",
            ),
            (JsonLines(name="x", train=(lines,), field="body"), "line 1: no text under 'body'"),
            (JsonLines(name="x", train=(str(tmp_path / "nope"),)), "no file"),
            (Parquet(name="x", train=(str(tmp_path / "own/a.parquet"),)), "no column 'text'"),
            (Parquet(name="x", train=(lines,)), "not a Parquet file"),
            (JsonLines(name="x", validation=(lines,)), "has no split 'train'"),
        ):
            with pytest.raises(UserError, match=message):
                prepare(
                    options(root, StoreJob(vocabulary="bytes", sets=(wrong,), splits=("train",)))
                )
        assert not (root / "stores/bytes/x").exists() or not list(
            (root / "stores/bytes/x").iterdir()
        )
    finally:
        sys.path.remove(str(tmp_path))


OWN_TASKS = """
import seqio
import tensorflow as tf

from lossline.corpora.seqio_tasks import TEXT
from lossline.vocabularies.seqio_adapter import SeqioVocabulary

def read(split, shuffle_files):
    return tf.data.Dataset.from_tensor_slices({"text": [f"own {i} é" for i in range(3)]})

source = seqio.FunctionDataSource(read, splits=["train"])
seqio.TaskRegistry.add("own_text", source=source, output_features=TEXT)
kinds = {"own_ids": SeqioVocabulary("bytes"), "own_lossy": seqio.ByteVocabulary()}
for name, vocabulary in kinds.items():
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            lambda data: data.map(lambda x: {"targets": x["text"]}),
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
        ],
        output_features={"targets": seqio.Feature(vocabulary=vocabulary, add_eos=True)},
    )
seqio.TaskRegistry.add("own_more", source=source, output_features=TEXT)
seqio.MixtureRegistry.add("own_mixture", ["own_text", "own_more"], default_rate=1)
"""


def test_tensorflow_dataset_becomes_a_store(root: Path, tmp_path: Path) -> None:
    pytest.importorskip(
        "importlib_resources", reason="tensorflow-datasets cannot build a dataset without it"
    )
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder = str(tmp_path / "tfds")
    splits = {"train": ["a é", "b"], "test": ["c"]}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        data_dir=folder,
        split_datasets={
            name: tf.data.Dataset.from_tensor_slices({"body": texts})
            for name, texts in splits.items()
        },
        features=tfds.features.FeaturesDict({"body": tfds.features.Text()}),
        disable_shuffling=True,
    )
    source = Tfds(
        name="t", dataset="tiny:1.0.0", data_dir=folder, feature="body", validation="test"
    )
    prepare(options(root, StoreJob(vocabulary="bytes", sets=(source,))))
    store = TokenStore.open(root / "stores/bytes/t/train")
    assert [vocabularies.load("bytes").decode(store.document(i)) for i in range(2)] == ["a é", "b"]
    assert TokenStore.open(root / "stores/bytes/t/validation").num_documents == 1
    for wrong, message in (
        ({"dataset": "nope:1.0.0"}, "Dataset nope not found"),
        ({"dataset": "lm1b:1.1.0"}, "Run tfds build first"),
        ({"feature": "text"}, "no feature 'text'"),
        ({"train": "nope"}, "no split"),
    ):
        job = StoreJob(vocabulary="bytes", sets=(replace(source, name="x", **wrong),))
        with pytest.raises(UserError, match=message):
            prepare(options(root, job))


def test_seqio_adapter_gives_the_same_tokens() -> None:
    import seqio
    import tensorflow as tf

    from lossline.vocabularies.seqio_adapter import SeqioVocabulary

    ours, theirs = SeqioVocabulary("bytes"), seqio.ByteVocabulary()
    text = "tab\t é 語 😀"
    assert (
        ours.encode(text) == theirs.encode(text) == vocabularies.load("bytes").encode(text).tolist()
    )
    np.testing.assert_array_equal(
        ours.encode_tf(tf.constant(text)), theirs.encode_tf(tf.constant(text))
    )
    ids = tf.constant([ours.encode("ab"), ours.encode("cd")])
    assert ours.decode_tf(ids).numpy().tolist() == [b"ab", b"cd"]
    assert (ours.vocab_size, ours.eos_id, ours.pad_id) == (theirs.vocab_size, theirs.eos_id, 0)
    assert ours.decode(theirs.encode(text)) == text
    assert ours == SeqioVocabulary(Bytes(name="other")) and ours != theirs


def test_missing_set_task_or_vocabulary_is_refused(root: Path) -> None:
    for job, message in (
        (StoreJob(vocabulary="bytes", sets=("nope",)), "Gather 'nope' first"),
        (StoreJob(vocabulary="bytes", tasks=("nope",)), "Gather 'nope' first"),
        (StoreJob(vocabulary="nope", sets=("demo",)), "vocabulary 'nope': not below"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(options(root, job))
    with pytest.raises(UserError, match="no store named"):
        prepare(options(root))
    with pytest.raises(UserError, match="no vocabulary named"):
        prepare(options(root, train_vocabulary=True))
    small = TrainVocabulary(name="s", algorithm=Algorithm.BPE, vocab_size=100, sets=("demo",))
    with pytest.raises(UserError, match="too small for all bytes"):
        prepare(options(root, train_vocabulary=True, vocabularies=(small,)))
    large = TrainVocabulary(name="l", algorithm=Algorithm.UNIGRAM, vocab_size=9000, sets=("demo",))
    with pytest.raises(UserError, match="SentencePiece cannot train it"):
        prepare(options(root, train_vocabulary=True, vocabularies=(large,)))
    assert not (root / "vocabularies" / "l").exists()
    for name in ("../x", "a/b", "."):
        outside = TrainVocabulary(
            name=name, algorithm=Algorithm.BPE, vocab_size=300, sets=("demo",)
        )
        with pytest.raises(UserError, match=r"vocabulary\.name = .*: cannot name a folder"):
            prepare(options(root, train_vocabulary=True, vocabularies=(outside,)))
    twice = (small, large, small)
    with pytest.raises(UserError, match="'s' occurs twice"):
        prepare(options(root, train_vocabulary=True, vocabularies=twice))
    broken = root / "vocabularies" / "s"
    broken.mkdir(parents=True)
    (broken / "provenance.json").write_text("null")
    whole = TrainVocabulary(name="s", algorithm=Algorithm.BPE, vocab_size=300, sets=("demo",))
    with pytest.raises(UserError, match="it is no JSON object"):
        prepare(options(root, train_vocabulary=True, vocabularies=(whole,)))


def test_subset_keeps_the_smallest_hashes_within_a_byte_limit() -> None:
    ordered = sorted(TEXTS, key=content_hash)
    assert list(Subset().apply(TEXTS)) == TEXTS
    assert list(Subset(max_documents=7).apply(TEXTS)) == ordered[:7]
    capped = list(Subset(max_megabytes=0.0005).apply(TEXTS))
    assert capped == ordered[: len(capped)]
    used = sum(len(t.encode()) for t in capped)
    assert used <= 500 < used + len(ordered[len(capped)].encode())
    assert len(list(Subset(max_megabytes=1e-6).apply(TEXTS))) == 1
    cut = list(Subset(max_document_kilobytes=0.031).apply(TEXTS))
    assert all(len(c.encode()) <= 31 and t.startswith(c) for c, t in zip(cut, TEXTS, strict=True))
    assert "\ufffd" not in "".join(cut)


def test_killed_prepare_resumes_to_the_same_store(root: Path, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(map(str, draw.integers(0, 10**9, 1000))) for _ in range(1500)]
    write_lines(root / "text" / "demo" / "train.jsonl", texts)
    gin = tmp_path / "x.gin"
    gin.write_text(
        f'prepare.root = "{root}"\nprepare.stores = (@store(),)\nprepare.processes = 1\n'
        'store.vocabulary = "bytes"\nstore.sets = ("demo",)\nstore.splits = ("train",)\n'
    )
    command = [sys.executable, "-m", "lossline.prepare", f"--gin_file={gin}"]
    parts = root / "stores/bytes/demo/train.partial/parts"
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(parts.glob("*.part"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    path = root / "stores/bytes/demo/train"
    assert not path.exists() and len(list(parts.glob("*.part"))) >= 2
    prepare(options(root, StoreJob(vocabulary="bytes", sets=("demo",), splits=("train",))))
    whole = write_store(tmp_path / "whole", texts, Bytes())
    assert TokenStore.open(path, verify=True).manifest.fingerprint == whole.manifest.fingerprint


@pytest.mark.parametrize("name", ["gather", "vocabularies", "stores"])
def test_shipped_gin_files_resolve(repository: Path, name: str) -> None:
    from lossline import gather
    from lossline import prepare as prepare_verb

    verb = "gather" if name == "gather" else "prepare"
    loaded = gather.load() if name == "gather" else prepare_verb.load()
    file = repository / "gin_configs" / "data" / f"quickstart_{name}.gin"
    built = build_options(verb, loaded, gin_files=[file])
    assert built.root == "data"
