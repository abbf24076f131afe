"""The passes of ``gather`` over a corpus: extract, drop repeats, cut into pages, write the splits.

Workers keep documents in files that are sorted by content hash. Everything that must be decided
globally (repeats, sizes, limits) is decided on hashes and counts, so no process holds more text
than one range of hashes has, and the result does not depend on the order in which units end.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lossline.corpora import utf8
from lossline.corpora.corpora import CORPORA
from lossline.corpora.deduplication import DUPLICATE_SHARE, content_hash
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.extraction import cut_into_pages
from lossline.corpora.passes import repeats
from lossline.corpora.passes.sorted_texts import (
    HashRange,
    SortedTexts,
    TextSorter,
    hash_ranges,
    read_array,
    write_array,
)
from lossline.corpora.passes.steps import Facts, Job, Unit
from lossline.files import replacing
from lossline.terminal import WorkProgress

TRAIN, VALIDATION = SPLITS = ("train", "validation")
VERSION = 2  # increase when the files of the passes change
_BUFFER = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What to keep; sizes in bytes.

    Attributes:
        validation_share: share of the documents in the validation split.
        train: most text of the training split.
        validation: most text of the validation split; 0: no limit.
        least: fewest bytes of a document or page.
        page: most bytes of a page; 0: documents are not cut.
        piece: bytes of text that one unit holds.
    """

    validation_share: float
    train: float
    validation: float
    least: int
    page: int
    piece: int


@dataclass(frozen=True)
class Gathered:
    """Counts of documents by what became of them, and facts of the file of each split."""

    counts: dict[str, int]
    files: dict[str, Facts]


@dataclass(frozen=True, kw_only=True)
class CorpusPasses:
    """The passes over one corpus.

    Attributes:
        corpus: the corpus.
        archives: file of each of its packages.
        work: folder for the files of the passes.
        out: folder for the files of the splits.
        limits: what to keep.
    """

    corpus: Corpus
    archives: tuple[Path, ...]
    work: Path
    out: Path
    limits: Limits

    def job(self) -> Job[Gathered]:
        """Return the passes as a job; see ``run_side_by_side``."""
        documents, counts = yield from self._extracted()
        edge = math.ceil(self.limits.validation_share * 2**32)
        size = sum(facts["stored"] for facts in counts.pop("facts"))
        ranges = hash_ranges(size, edge, piece=self.limits.piece)
        found = yield from self._first(documents, ranges, self.work / "unique")
        counts["duplicates"] = counts.pop("records") - sum(f["documents"] for f in found)
        rows = self.work / "unique"
        if self.corpus.near_duplicates:
            found, dropped = yield from self._distinct(documents, ranges, found)
            rows, counts["near_duplicates"] = self.work / "distinct", dropped
        counts["beyond_max_megabytes"] = 0
        by_split: dict[str, list[_Part]] = {split: [] for split in SPLITS}
        for number, (some, facts) in enumerate(zip(ranges, found, strict=True)):
            part = _Part(documents, str(rows / f"{number}.npy"), facts["documents"], facts["bytes"])
            by_split[VALIDATION if some.high <= edge else TRAIN].append(part)
        if self.limits.page:
            by_split = yield from self._cut(by_split)
            for split, parts in by_split.items():
                counts[f"{split}_pages"] = sum(part.documents for part in parts)
        written = yield from self._written(by_split)
        total = sum(part.documents for parts in by_split.values() for part in parts)
        counts["beyond_max_megabytes"] = total - sum(f["documents"] for f in written.values())
        return Gathered(counts, written)

    def _extracted(self) -> Job[tuple[SortedTexts, dict[str, Any]]]:
        folder = self.work / "documents"
        known = CORPORA.get(self.corpus.name) is self.corpus
        facts = yield [
            Unit(
                function=extract,
                options=Extraction(
                    corpus=self.corpus.name if known else self.corpus,
                    package=number,
                    archive=str(archive),
                    folder=str(folder / str(number)),
                    least=self.limits.least,
                    piece=self.limits.piece,
                ),
                outputs=(str(folder / str(number)),),
                mark=str(folder / f"{number}.json"),
            )
            for number, archive in enumerate(self.archives)
        ]
        names = ("extracted", "too_short", "no_utf8", "records")
        counts: dict[str, Any] = {name: sum(f[name] for f in facts) for name in names}
        files = tuple(f["files"] for f in facts)
        return SortedTexts(folder=str(folder), files=files), counts | {"facts": facts}

    def _first(
        self, texts: SortedTexts, ranges: Sequence[HashRange], folder: Path
    ) -> Job[list[Facts]]:
        return (
            yield [
                Unit(
                    function=keep_first,
                    options=Range(texts=texts, some=some, out=str(folder / f"{number}.npy")),
                    outputs=(str(folder / f"{number}.npy"),),
                    mark=str(folder / f"{number}.json"),
                )
                for number, some in enumerate(ranges)
            ]
        )

    def _distinct(
        self, documents: SortedTexts, ranges: Sequence[HashRange], unique: list[Facts]
    ) -> Job[tuple[list[Facts], int]]:
        """Drop near-duplicates: return the facts of what is left, and the number dropped."""
        rows, folder = self.work / "unique", self.work / "shingles"
        places = _places([rows / f"{n}.npy" for n in range(len(ranges))])
        stops = np.cumsum([facts["documents"] for facts in unique])
        by_range = np.split(places, stops[:-1])
        for number, own in enumerate(by_range):
            write_array(folder / f"places{number}.npy", own)
        written = yield [
            Unit(
                function=shingle,
                options=Shingling(
                    texts=documents,
                    rows=str(rows / f"{n}.npy"),
                    places=str(folder / f"places{n}.npy"),
                    out=str(folder / f"{n}.npy"),
                    totals=str(folder / f"totals{n}.npy"),
                ),
                outputs=(str(folder / f"{n}.npy"), str(folder / f"totals{n}.npy")),
                mark=str(folder / f"{n}.json"),
            )
            for n in range(len(ranges))
        ]
        pieces = max(1, -(-sum(f["shingles"] for f in written) // (self.limits.piece // 8)))
        yield [
            Unit(
                function=count,
                options=Counting(
                    folder=str(folder),
                    files=len(ranges),
                    piece=piece,
                    pieces=pieces,
                    out=str(folder / "repeats" / f"{piece}.npy"),
                ),
                outputs=(str(folder / "repeats" / f"{piece}.npy"),),
                mark=str(folder / "repeats" / f"{piece}.json"),
            )
            for piece in range(pieces)
        ]
        files = [folder / "repeats" / f"{piece}.npy" for piece in range(pieces)]
        repeated = repeats.sum_repeats(files, len(places))
        facts = []
        for number, own in enumerate(by_range):
            totals = read_array(folder / f"totals{number}.npy")
            kept = read_array(rows / f"{number}.npy")[repeated[own] < DUPLICATE_SHARE * totals]
            write_array(self.work / "distinct" / f"{number}.npy", kept)
            facts.append(_sizes(kept))
        return facts, len(places) - sum(f["documents"] for f in facts)

    def _cut(self, by_split: dict[str, list[_Part]]) -> Job[dict[str, list[_Part]]]:
        """Cut the documents of each split into pages."""
        cuts = [
            Unit(
                function=cut,
                options=Cutting(
                    part=part,
                    folder=str(self.work / "pages" / split / str(number)),
                    limits=self.limits,
                ),
                outputs=(str(self.work / "pages" / split / str(number)),),
                mark=str(self.work / "pages" / split / f"{number}.json"),
            )
            for split, parts in by_split.items()
            for number, part in enumerate(parts)
        ]
        facts = iter((yield cuts))
        pages: dict[str, list[_Part]] = {}
        for split, parts in by_split.items():
            own = list(itertools.islice(facts, len(parts)))
            files = tuple(f["files"] for f in own)
            texts = SortedTexts(folder=str(self.work / "pages" / split), files=files)
            ranges = hash_ranges(sum(f["stored"] for f in own), piece=self.limits.piece)
            folder = self.work / "unique_pages" / split
            found = yield from self._first(texts, ranges, folder)
            pages[split] = [
                _Part(texts, str(folder / f"{n}.npy"), f["documents"], f["bytes"])
                for n, f in enumerate(found)
            ]
        return pages

    def _written(self, by_split: dict[str, list[_Part]]) -> Job[dict[str, Facts]]:
        """Write the splits, up to their limits."""
        limits = {TRAIN: self.limits.train, VALIDATION: self.limits.validation or math.inf}
        units: dict[str, list[Unit]] = {split: [] for split in SPLITS}
        for split, parts in by_split.items():
            before = itertools.accumulate((part.size for part in parts), initial=0)
            for number, (part, start) in enumerate(zip(parts, before, strict=False)):
                if start > limits[split]:
                    break
                stem = self.work / split / str(number)
                units[split].append(
                    Unit(
                        function=write,
                        options=Writing(part=part, room=limits[split] - start, out=f"{stem}.jsonl"),
                        outputs=(f"{stem}.jsonl",),
                        mark=f"{stem}.json",
                    )
                )
        facts = iter((yield [unit for some in units.values() for unit in some]))
        sizes = {split: list(itertools.islice(facts, len(some))) for split, some in units.items()}
        joined = yield [
            Unit(
                function=join,
                options=Joining(
                    parts=tuple(unit.options.out for unit in some),
                    out=str(self.out / f"{split}.jsonl"),
                ),
                outputs=(str(self.out / f"{split}.jsonl"),),
                mark=str(self.work / f"{split}.json"),
            )
            for split, some in units.items()
        ]
        return {
            split: {
                "documents": sum(f["documents"] for f in sizes[split]),
                "text_bytes": sum(f["bytes"] for f in sizes[split]),
                **facts,
            }
            for split, facts in zip(units, joined, strict=True)
        }


@dataclass(frozen=True)
class _Part:
    """Documents or pages of one range of hashes: their files, rows, number and bytes of text."""

    texts: SortedTexts
    rows: str
    documents: int
    size: int

    def lines(self) -> Iterator[bytes]:
        return self.texts.lines(np.array(read_array(Path(self.rows))))


@dataclass(frozen=True, kw_only=True)
class Extraction:
    """Documents of one package: registered name of the corpus or the corpus, and where to write."""

    corpus: str | Corpus
    package: int
    archive: str
    folder: str
    least: int
    piece: int


def extract(unit: Extraction) -> Facts:
    """Write the documents of a package that are UTF-8 and long enough."""
    corpus = CORPORA[unit.corpus] if isinstance(unit.corpus, str) else unit.corpus
    documents = list(corpus.packages.values())[unit.package]
    progress = WorkProgress(f"gather text/{corpus.name}", total=corpus.megabytes * 1e6)
    counts = {"extracted": 0, "too_short": 0, "no_utf8": 0, "records": 0}
    sorter = TextSorter(Path(unit.folder), size=unit.piece)
    for document in documents(Path(unit.archive)):
        progress.advance(len(document.text))
        counts["extracted"] += 1
        if utf8.fault(document.text):
            counts["no_utf8"] += 1
        elif (size := len(document.text.encode())) < unit.least:
            counts["too_short"] += 1
        else:
            counts["records"] += 1
            # Names in an archive may be invalid UTF-8: such bytes are written as \udcff.
            source = document.source.encode(errors="backslashreplace").decode()
            _add(sorter, source, document.text, size)
    sorter.close()
    return {**counts, "files": sorter.files, "stored": sorter.bytes}


def _add(sorter: TextSorter, source: str, text: str, size: int) -> None:
    content = content_hash(text)
    record = {"id": content, "source": source, "text": text}
    sorter.add(content, json.dumps(record, ensure_ascii=False).encode() + b"\n", size)


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of hashes of sorted files, and the file for its rows."""

    texts: SortedTexts
    some: HashRange
    out: str


def keep_first(unit: Range) -> Facts:
    """Write the rows of a range; of equal hashes, only the first record's."""
    rows = unit.texts.rows(unit.some)
    write_array(Path(unit.out), rows)
    return _sizes(rows)


def _sizes(rows: np.ndarray) -> Facts:
    return {"documents": len(rows), "bytes": int(rows["bytes"].sum())}


@dataclass(frozen=True, kw_only=True)
class Shingling:
    """Documents whose 8-grams are written: texts and rows, and files of places, 8-grams, totals."""

    texts: SortedTexts
    rows: str
    places: str
    out: str
    totals: str


def shingle(unit: Shingling) -> Facts:
    """Write the 8-grams of the documents of a range, and how many each has."""
    rows = np.array(read_array(Path(unit.rows)))
    texts = (json.loads(line)["text"] for line in unit.texts.lines(rows))
    totals = repeats.write_shingles(Path(unit.out), texts, read_array(Path(unit.places)))
    write_array(Path(unit.totals), totals)
    return {"shingles": int(totals.sum())}


@dataclass(frozen=True, kw_only=True)
class Counting:
    """A range of the hashes of 8-grams in files 0 to ``files`` of a folder."""

    folder: str
    files: int
    piece: int
    pieces: int
    out: str


def count(unit: Counting) -> Facts:
    """Count the 8-grams of a range of hashes that documents repeat."""
    files = [Path(unit.folder) / f"{number}.npy" for number in range(unit.files)]
    repeats.count_repeats(Path(unit.out), files, unit.piece, unit.pieces)
    return {}


def _places(files: Sequence[Path]) -> np.ndarray:
    """Return the place of each document in the order in which near-duplicates are looked for.

    The first copy is kept, and the split depends on the start of the hash. If the order were the
    hash itself, the first copy would be in validation too often. The order is that of the hex
    digits from the last to the first.
    """
    contents = np.concatenate([read_array(file)["content"] for file in files])
    digits = contents.view(np.uint8).reshape(len(contents), 32)[:, ::-1]
    turned = np.ascontiguousarray((digits << 4) | (digits >> 4)).view("S32").ravel()
    del digits, contents
    places = np.empty(len(turned), np.uint32)
    places[np.argsort(turned)] = np.arange(len(turned), dtype=np.uint32)
    return places


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """Documents to cut into pages, and the folder for the pages."""

    part: _Part
    folder: str
    limits: Limits


def cut(unit: Cutting) -> Facts:
    """Cut documents into pages and write those that are long enough."""
    sorter = TextSorter(Path(unit.folder), size=unit.limits.piece)
    for line in unit.part.lines():
        record = json.loads(line)
        for page in cut_into_pages(record["text"], unit.limits.page):
            size = len(page.encode())
            if size >= unit.limits.least:
                _add(sorter, record["source"], page, size)
    sorter.close()
    return {"files": sorter.files, "stored": sorter.bytes}


@dataclass(frozen=True, kw_only=True)
class Writing:
    """Documents of a split to write while their text fits into ``room`` bytes."""

    part: _Part
    room: float
    out: str


def write(unit: Writing) -> Facts:
    """Write a part of a split. After the first document that does not fit, none is written."""
    rows = np.array(read_array(Path(unit.part.rows)))
    rows = rows[np.cumsum(rows["bytes"]) <= unit.room]
    out = Path(unit.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial, partial.open("wb") as file:
        file.writelines(unit.part.texts.lines(rows))
    return _sizes(rows)


@dataclass(frozen=True, kw_only=True)
class Joining:
    """Parts of a split in order, and its file."""

    parts: tuple[str, ...]
    out: str


def join(unit: Joining) -> Facts:
    """Join the parts of a split into its file."""
    digest = hashlib.sha256()
    with replacing(Path(unit.out)) as partial, partial.open("wb") as file:
        for part in unit.parts:
            with Path(part).open("rb") as source:
                while piece := source.read(_BUFFER):
                    digest.update(piece)
                    file.write(piece)
    return {"sha256": digest.hexdigest()}
