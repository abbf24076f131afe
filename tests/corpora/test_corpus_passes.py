"""The passes of gather: the same files from any engine, in any order, after any interruption."""

import dataclasses
import functools
import json
import math
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from planted_corpus import killed_once, planted
from standing_cluster import StandingCluster

from lossline.cluster import connect
from lossline.corpora import gathering
from lossline.corpora.deduplication import content_hash, near_duplicates, split_of
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.extraction import Document, cut_into_pages
from lossline.corpora.gathering import Selection, gather_corpora
from lossline.corpora.passes.sorted_texts import FILE_BYTES
from lossline.corpora.passes.steps import Job, Unit, run_side_by_side
from lossline.errors import UserError

SPLITS = ("train", "validation")


def in_memory(corpus: Corpus, folder: Path, selection: Selection) -> dict[str, bytes]:
    """Return the files of the splits, computed with everything in memory."""
    unique: dict[str, Document] = {}
    for package, extract in corpus.packages.items():
        for document in extract(folder / package.file):
            text = document.text
            if "\ud800" not in text and len(text.encode()) >= selection.min_bytes:
                unique.setdefault(content_hash(text), document)
    if corpus.near_duplicates:
        order = sorted(unique, key=lambda content: content[::-1])
        repeats = near_duplicates([unique[content].text for content in order])
        for content in np.array(order)[repeats].tolist():
            del unique[content]
    pages: dict[str, dict[str, dict]] = {split: {} for split in SPLITS}
    for content, document in sorted(unique.items()):
        size = int(selection.page_kilobytes * 1000) or 10**9
        for page in cut_into_pages(document.text, size):
            if len(page.encode()) >= selection.min_bytes:
                split = pages[split_of(content, selection.validation_share)]
                record = {"id": content_hash(page), "source": document.source, "text": page}
                split.setdefault(record["id"], record)
    limits = (selection.max_megabytes, selection.max_validation_megabytes or math.inf)
    found = {}
    for split, limit in zip(SPLITS, limits, strict=True):
        lines, room = [], limit * 1e6
        for _, record in sorted(pages[split].items()):
            room -= len(record["text"].encode())
            if room < 0:
                break
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        found[split] = "".join(lines).encode()
    return found


class Shuffled:
    """Runs units in random order, some of them twice, until ``left`` of them have run."""

    def __init__(self, seed: int, left: float = math.inf) -> None:
        self._draw, self.left = random.Random(seed), left

    def run(self, function, units, **_):
        for index in self._draw.sample(range(len(units)), len(units)):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            if index % 5 == 0:
                function(units[index])
            yield index, function(units[index])


def gathered(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "text" / "planted").iterdir()}


SELECTIONS = {
    "whole": Selection(validation_share=0.3, min_bytes=30),
    "limited": Selection(validation_share=0.3, min_bytes=30, max_megabytes=0.02),
    "pages": Selection(
        validation_share=0.3, min_bytes=30, page_kilobytes=0.2, max_megabytes=0.03,
        max_validation_megabytes=0.01,
    ),
}  # fmt: skip


@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("name", list(SELECTIONS))
def test_any_order_and_size_of_units_gives_the_files_of_one_pass_in_memory(
    name: str, near: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, selection = planted(tmp_path, near=near), SELECTIONS[name]
    expected = in_memory(corpus, tmp_path, selection)
    found = []
    for number, piece in enumerate((FILE_BYTES, 20_000)):
        monkeypatch.setattr(gathering, "FILE_BYTES", piece)
        root = tmp_path / f"root{number}"
        gather = functools.partial(gather_corpora, [corpus], root, downloads=tmp_path)
        gather(selection=selection, engine=Shuffled(number))
        found.append(gathered(root))
        assert not list((root / "text").glob("*.partial"))
    assert {split: found[0][f"{split}.jsonl"] for split in SPLITS} == expected
    assert found[0] == found[1]
    counts = json.loads(found[0]["provenance.json"])["counts"]
    assert counts["no_utf8"] == 1 and counts["too_short"] >= 1 and counts["duplicates"] >= 20
    assert counts.get("near_duplicates", 0) >= 25 * near


def test_an_interrupted_start_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "FILE_BYTES", 20_000)
    corpus, selection = planted(tmp_path, near=True), SELECTIONS["pages"]
    gather = functools.partial(gather_corpora, [corpus], downloads=tmp_path, selection=selection)
    whole = Shuffled(0, 10**6)
    gather(tmp_path / "whole", engine=whole)
    units = 10**6 - whole.left
    starts = 0
    while not (tmp_path / "cut" / "text" / "planted").exists():
        starts += 1
        engine = Shuffled(starts, units // 2 + 10 * starts)
        try:
            gather(tmp_path / "cut", engine=engine)
        except KeyboardInterrupt:
            assert (tmp_path / "cut" / "text" / "planted.partial").exists()
    assert starts > 1
    assert gathered(tmp_path / "cut") == gathered(tmp_path / "whole")


def test_units_with_damaged_files_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "FILE_BYTES", 20_000)
    corpus, selection = planted(tmp_path, near=True), SELECTIONS["pages"]
    gather = functools.partial(gather_corpora, [corpus], downloads=tmp_path, selection=selection)
    gather(tmp_path / "whole", engine=Shuffled(0))
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path / "cut", engine=Shuffled(1, 45))
    for damaged in (".json", ".jsonl", ".npy"):
        root = shutil.copytree(tmp_path / "cut", tmp_path / damaged)
        files = sorted(root.rglob(f"*{damaged}"))
        assert {"repeats" if damaged == ".npy" else "train"} <= {f.parent.name for f in files}
        for number, file in enumerate(files):
            content = file.read_bytes()
            file.write_bytes(content[: number % 2 * len(content) // 2])
        gather(root, engine=Shuffled(2))
        assert gathered(root) == gathered(tmp_path / "whole")


def test_a_unit_without_output_is_finished(tmp_path: Path) -> None:
    done: list[str] = []
    unit = Unit(
        function=lambda options: {"nothing": done.append(options)}, options="a",
        outputs=(str(tmp_path / "none"),), mark=str(tmp_path / "0.json"),
    )  # fmt: skip
    for _ in range(2):
        run_side_by_side([job_of(unit)], Shuffled(0))
    assert done == ["a"]


def job_of(unit: Unit) -> Job[None]:
    yield [unit]


def test_finished_units_are_not_done_again(tmp_path: Path) -> None:
    corpus, selection = planted(tmp_path, near=False), SELECTIONS["whole"]
    gather = functools.partial(gather_corpora, [corpus], tmp_path, downloads=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        gather(selection=selection, engine=Shuffled(0, 4))
    marks = sorted((tmp_path / "text" / "planted.partial").rglob("*.json"))
    times = [mark.stat().st_mtime_ns for mark in marks]
    assert len(marks) == 4
    with pytest.raises(KeyboardInterrupt):
        gather(selection=selection, engine=Shuffled(0, 4))
    assert times == [mark.stat().st_mtime_ns for mark in marks]
    # Other settings begin anew.
    gather(selection=SELECTIONS["limited"], engine=Shuffled(0))
    assert gathered(tmp_path)["train.jsonl"] == in_memory(
        corpus, tmp_path, SELECTIONS["limited"]
    )["train"]  # fmt: skip


def test_a_split_without_documents_leaves_nothing(tmp_path: Path) -> None:
    corpus = planted(tmp_path, near=False)
    with pytest.raises(UserError, match="a split has no documents"):
        gathering.gather_corpus(
            corpus,
            tmp_path,
            downloads=tmp_path,
            selection=Selection(max_megabytes=1e-6),
        )
    assert not list((tmp_path / "text").iterdir())


@pytest.mark.parametrize("where", ["two processes", "dask", "a worker dies"])
def test_any_engine_gives_the_same_files(
    where: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.setattr(gathering, "FILE_BYTES", 40_000)
    corpus, selection = planted(tmp_path, near=True), SELECTIONS["pages"]
    gather = functools.partial(gather_corpora, downloads=tmp_path, selection=selection)
    gather([corpus], tmp_path / "here", engine=Shuffled(0))
    address = "local"
    if where != "two processes":
        cluster: StandingCluster = request.getfixturevalue("dask_cluster")
        address = cluster.address
    if where == "a worker dies":
        extract = functools.partial(killed_once, marker=str(tmp_path / "dead"))
        corpus = dataclasses.replace(corpus, packages=dict.fromkeys(corpus.packages, extract))
    with connect(address, processes=2) as engine:
        gather([corpus], tmp_path / "there", engine=engine)
    if where == "a worker dies":
        assert (tmp_path / "dead").exists()
        cluster.start_worker()
    assert gathered(tmp_path / "there") == gathered(tmp_path / "here")
