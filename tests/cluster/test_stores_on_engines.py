"""A store is the same bit for bit for every engine, order and accident."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from standing_cluster import StandingCluster

from lossline.cluster import Engine, connect
from lossline.corpora import sources
from lossline.corpora.file_texts import LineRange
from lossline.corpora.gathering import file_sha256
from lossline.corpora.sources import JsonLines, Parquet, PlainFiles
from lossline.errors import UserError
from lossline.stores import arrays, prepare_all
from lossline.stores.prepare_all import PrepareOptions, StoreJob, prepare
from lossline.stores.store_writer import RangedTexts, write_store
from lossline.vocabularies import Bytes, ByteVocabulary, HuggingFace

TEXTS = [f"Text {i}: the number {i * i} é語 is a number.\n" * (i % 5 + 1) for i in range(200)]


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_SMALLEST_RANGE", 3000)


def lines(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def jobs(tmp_path: Path) -> tuple[StoreJob, ...]:
    """Sets of all kinds of files, one of them with a limit that one reader applies."""
    import pyarrow
    import pyarrow.parquet

    lines(tmp_path / "a.jsonl", TEXTS)
    lines(tmp_path / "b.jsonl", TEXTS[50:90])
    table = pyarrow.table({"text": TEXTS})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=9)
    for i, text in enumerate(TEXTS[:40]):
        (tmp_path / f"{i:03}.txt").write_text(text)
    chosen = (
        JsonLines(name="lines", train=(str(tmp_path / "*.jsonl"),)),
        Parquet(name="rows", train=(str(tmp_path / "a.parquet"),)),
        PlainFiles(name="files", train=(str(tmp_path / "*.txt"),)),
    )
    return (
        StoreJob(vocabulary="bytes", sets=chosen, splits=("train",), max_document_kilobytes=0.15),
        StoreJob(
            vocabulary=Bytes(name="few"), sets=chosen[:1], splits=("train",), max_documents=30
        ),
    )


class Reversed(Engine):
    """An engine that finishes the first unit last, and each unit twice."""

    def run(self, function: Callable[[Any], Any], units: Any, **others: Any) -> Iterator[Any]:
        taken = list(enumerate(units))
        for _ in range(2):
            results = [(number, function(unit)) for number, unit in reversed(taken)]
        yield from results

    def close(self) -> None:
        pass


def tree(folder: Path) -> dict[str, str]:
    """Hash of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_every_engine_makes_the_same_store(
    jobs: tuple[StoreJob, ...],
    dask_cluster: StandingCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(name: str, cluster: str, processes: int) -> dict[str, str]:
        out = tmp_path / name
        prepare(
            PrepareOptions(
                root=str(tmp_path), stores=jobs, out=str(out), cluster=cluster, processes=processes
            )
        )
        return tree(out)

    expected = made("one", "local", 1)
    assert sum(name.endswith("manifest.json") for name in expected) == 4
    assert made("two", "local", 2) == expected
    assert made("dask", dask_cluster.address, 0) == expected
    monkeypatch.setattr(prepare_all, "connect", lambda *_, **__: Reversed())
    assert made("reversed", "local", 1) == expected
    monkeypatch.setattr(sources, "_SMALLEST_RANGE", 1 << 21)
    assert made("whole", "local", 1) == expected


def ranged(folder: Path, repeats: int = 1) -> RangedTexts:
    source = JsonLines(name="lines", train=(lines(folder / "a.jsonl", TEXTS * repeats),))
    return RangedTexts(
        ranges=sources.text_ranges(source, "train"),
        hashes={folder / "a.jsonl": file_sha256(folder / "a.jsonl")},
    )


def test_a_worker_killed_midway_changes_nothing(
    dask_cluster: StandingCluster, tmp_path: Path
) -> None:
    victim = dask_cluster.workers[-1]

    def kill(done: int) -> None:
        if victim.poll() is None:
            victim.kill()
            victim.wait()

    texts = ranged(tmp_path)
    with connect(dask_cluster.address) as engine:
        write_store(tmp_path / "dask", texts, Bytes(), engine=engine, report=kill, shard=4096)
    assert victim.poll() is not None
    dask_cluster.start_worker()
    write_store(tmp_path / "local", texts, Bytes(), shard=4096)
    assert tree(tmp_path / "dask") == tree(tmp_path / "local")


def test_a_scheduler_killed_midway_leaves_parts_for_the_next_start(
    harmed_cluster: StandingCluster, tmp_path: Path
) -> None:
    def kill(done: int) -> None:
        if harmed_cluster.scheduler.poll() is None:
            harmed_cluster.scheduler.kill()
            harmed_cluster.scheduler.wait()

    texts = ranged(tmp_path, 10)
    harmed_cluster.start_worker()
    with (
        connect(harmed_cluster.address) as engine,
        pytest.raises(UserError, match=r"scheduler was lost. Run the same command again"),
    ):
        write_store(tmp_path / "dask", texts, Bytes(), engine=engine, report=kill)
    assert not (tmp_path / "dask").exists()
    harmed_cluster.start_scheduler()
    harmed_cluster.start_worker()
    found: list[int] = []
    with connect(harmed_cluster.address) as engine:
        write_store(tmp_path / "dask", texts, Bytes(), engine=engine, found=found.append)
    assert found
    write_store(tmp_path / "local", texts, Bytes())
    assert tree(tmp_path / "dask") == tree(tmp_path / "local")


@pytest.mark.parametrize("shard", [1000, 1024, 1 << 24])
def test_files_of_ids_are_those_of_an_array_written_at_once(tmp_path: Path, shard: int) -> None:
    store = write_store(
        tmp_path / "store", TEXTS, ByteVocabulary(), chunk=700, shard=shard, engine=Reversed()
    )
    facts = arrays.write(
        tmp_path / "tokens",
        [store.read(0, store.num_tokens)],
        dtype="uint16",
        size=store.num_tokens,
        shard=shard,
    )
    assert facts == store.manifest.arrays["tokens"]
    assert tree(tmp_path / "tokens") == tree(tmp_path / "store" / "tokens")


@dataclass(frozen=True)
class OnFullDisk:
    """A range whose part does not fit on the disk."""

    whole: LineRange

    def identity(self, hashes: Any) -> list[Any]:
        return self.whole.identity(hashes)

    def texts(self) -> Iterator[str]:
        yield from list(self.whole.texts())[:3]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_parts_for_the_next_start(
    dask_cluster: StandingCluster, tmp_path: Path
) -> None:
    texts = ranged(tmp_path)
    last = texts.ranges[-1]
    assert isinstance(last, LineRange)
    ranges: Any = [*texts.ranges[:-1], OnFullDisk(last)]
    full = RangedTexts(ranges=ranges, hashes=texts.hashes)
    with connect(dask_cluster.address) as engine:
        with pytest.raises(
            UserError, match=r"worker tcp://.*\.part: No space left on device. Free space there"
        ):
            write_store(tmp_path / "dask", full, Bytes(), engine=engine)
        left = sorted(path.name for path in (tmp_path / "dask.partial" / "parts").iterdir())
        assert left and all(name.endswith(".part") and name[0] != "." for name in left)
        found: list[int] = []
        write_store(tmp_path / "dask", texts, Bytes(), engine=engine, found=found.append)
    assert found
    write_store(tmp_path / "local", texts, Bytes())
    assert tree(tmp_path / "dask") == tree(tmp_path / "local")


def test_a_worker_with_another_vocabulary_file_is_refused(
    dask_cluster: StandingCluster, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    def write(letters: int) -> None:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {token: i for i, token in enumerate(["<eos>", *alphabet, "ab"[:letters] * 2])}
        tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.add_special_tokens(["<eos>"])
        tokenizer.save(str(tmp_path / "tokenizer.json"))

    def documents() -> Iterator[str]:
        write(2)  # after this process has loaded it, before a worker does
        yield "a document"

    write(1)
    spec = HuggingFace(path=str(tmp_path / "tokenizer.json"), name="own")
    with (
        connect(dask_cluster.address) as engine,
        pytest.raises(UserError, match=r"worker tcp://.*: vocabulary own is \w{12} there, but"),
    ):
        write_store(tmp_path / "store", documents(), spec, engine=engine)
    assert not (tmp_path / "store.partial").exists()


def test_an_error_in_a_text_names_its_line(dask_cluster: StandingCluster, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines(path, TEXTS)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:150], "nothing", *rows[150:]]))
    source = JsonLines(name="lines", train=(str(path),))
    job = StoreJob(vocabulary="bytes", sets=(source,), splits=("train",))
    with pytest.raises(UserError, match=r"a\.jsonl, line 151, column 1: not JSON"):
        prepare(PrepareOptions(root=str(tmp_path), stores=(job,), cluster=dask_cluster.address))


def test_a_malformed_cluster_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cluster = '10.0.0.1:8786': give 'local', or the address"):
        prepare(
            PrepareOptions(
                root=str(tmp_path), stores=(StoreJob(vocabulary="bytes"),), cluster="10.0.0.1:8786"
            )
        )
