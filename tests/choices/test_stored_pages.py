"""Pages that stay in their files give the results of pages in memory, on any engine."""

import gzip
import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import planted_pool
import pytest

from lossline.choices import stored_pages
from lossline.choices.stored_pages import OpenPool, open_pool
from lossline.cluster import connect
from lossline.corpora.items import Item
from lossline.corpora.passes import pool_index
from lossline.corpora.pools import MissingDomains, Pool
from lossline.errors import UserError
from lossline.pages import (
    Dsir,
    LanguageFilter,
    Oracle,
    PageClassifier,
    PositiveClassifier,
    SelectionTask,
    Uniform,
    benchmark_overlap,
    clean_pages,
    cut,
)
from lossline.vocabularies import Bytes


class Shuffled:
    """Runs all units first, and yields them in random order."""

    def run(self, function, units, **_):
        found = [(number, function(unit)) for number, unit in enumerate(units)]
        random.Random(0).shuffle(found)
        yield from found


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Gathered domains, and files: copies, edited copies, a compressed one, odd line ends."""
    root = tmp_path_factory.mktemp("pool")
    planted_pool.write_pool(root)
    draw = random.Random(0)
    texts = [planted_pool.page_text("law", 7000 + number) for number in range(60)]
    texts += [f"{text} é edited" for text in texts[:20]] + texts[10:15]
    texts += [planted_pool.page_text("code", number) for number in range(4)]  # of a gathered domain
    records = [{"domain": draw.choice(["web", "mail"]), "text": text} for text in texts]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    (root / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines[:40]).encode())
    (root / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[40:60]).encode() + b"\n"))
    (root / "c.jsonl").write_bytes("\r".join(lines[60:]).encode())
    return Pool(
        root=str(root), domains=("verse", "code", "absent"), files=(str(root / "*.jsonl*"),),
        validation_share=0.2, scored_pages=3, missing=MissingDomains.SKIP,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_index, "PIECE", 5000)
    monkeypatch.setattr(stored_pages, "PIECE", 30_000)
    monkeypatch.setattr(stored_pages, "_SHINGLES", 10_000)
    monkeypatch.setattr(stored_pages, "TOKENIZED", 5000)


def test_the_index_has_the_pages_of_the_pool(pool: Pool, tmp_path: Path) -> None:
    found = open_pool(pool, Shuffled(), tmp_path)
    assert list(found.pages) == list(pool.pages())
    assert found.index.names == pool.names() == ("verse", "code", "mail", "web")
    assert found.index.left_out == pool.left_out() == ("absent",)
    assert found.index.fingerprint() == pool.fingerprint()
    lone = Pool(domains=("verse",), root=pool.root)
    assert open_pool(lone, Shuffled(), tmp_path).index.fingerprint() == lone.fingerprint()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"text": "a", "domain": "x"}\n' * 400 + b"{",
            r"own.jsonl, line 401, column 2: not JSON",
        ),
        (b'{"text": "a", "domain": "x"}\n\n', r"own.jsonl, line 2: blank line"),
        (b'{"text": " ", "domain": "x"}\n', r"own.jsonl, line 1: 'text' is blank"),
        (b'{"text": "a"}\n', r"own.jsonl, line 1: 'domain' is missing"),
    ],
)
def test_faults_of_lines_are_those_of_the_pool(
    content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / "own.jsonl").write_bytes(content)
    bad = Pool(files=(str(tmp_path / "own.jsonl"),))
    with pytest.raises(UserError, match=message) as one:
        open_pool(bad, Shuffled(), tmp_path)
    with pytest.raises(UserError) as two:
        bad.names()
    assert str(one.value) == str(two.value)


def test_a_file_that_changes_is_one_line(tmp_path: Path) -> None:
    planted_pool.write_pool(tmp_path)
    found = open_pool(Pool(root=str(tmp_path), domains=("law",)), Shuffled(), tmp_path)
    file = tmp_path / "text" / "law" / "train.jsonl"
    file.write_text(file.read_text()[10:])
    with pytest.raises(UserError, match=r"train\.jsonl: was changed while it was read"):
        list(found.pages)


TASK = SelectionTask(
    target="quiz", texts=tuple(planted_pool.page_text("code", 5000 + i) for i in range(20)),
    domains=("code",), weights={"code": 0.7, "web": 0.0, "verse": -0.1, "mail": 0.3}, seed=3,
)  # fmt: skip
METHODS = {
    "uniform": Uniform(),
    "oracle": Oracle(),
    "dsir": Dsir(),
    "language": LanguageFilter(languages=("en", "la")),
    "classifier": PageClassifier(),
    "positives": PositiveClassifier(),
}


def everything(pages, methods: tuple[str, ...], *, selected_only: bool) -> dict:
    """Return all that a selection is made of, as plain arrays and frames."""
    items = {
        "quiz": [
            Item(id=str(i), context=planted_pool.page_text("code", i, 40), choices=("",), gold=0)
            for i in range(8)
        ]
    }
    found: dict = {}
    overlap = benchmark_overlap(pages, items)
    found["overlap"] = overlap.pages, overlap.domains, overlap.benchmarks
    clean = clean_pages(pages, benchmark_text=overlap.pages)
    found["clean"] = [(page.id, page.domain) for page in clean.pages], clean.table
    for name in methods:
        method = METHODS[name]
        if name == "language":
            pytest.importorskip("py3langid")
        ranking = method.rank(clean.pages, TASK)
        taken = cut(
            clean.pages, ranking, budget=9000, vocabulary=Bytes(), selected_only=selected_only
        )
        rows = taken.pages[taken.pages["included"]].reset_index(drop=True)
        facts = dict(ranking.facts)
        numbers = (taken.order, taken.tokens, taken.bytes)
        found[name] = ranking.scores, ranking.candidate, facts, rows, *numbers
    return found


def same(one, two) -> None:
    for name, parts in one.items():
        for a, b in zip(parts, two[name], strict=True):
            if isinstance(a, pd.DataFrame):
                pd.testing.assert_frame_equal(a, b)
            elif isinstance(a, np.ndarray):
                np.testing.assert_array_equal(a, b)
            else:
                assert a == b, name


@pytest.mark.parametrize("where", ["shuffled", "two processes", "dask"])
def test_selections_are_those_of_pages_in_memory(
    where: str, pool: Pool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    methods = tuple(METHODS) if where == "shuffled" else ("dsir", "classifier")
    held = everything(list(pool.pages()), methods, selected_only=False)
    assert held["overlap"][0].any() and len(held["clean"][0]) < len(list(pool.pages()))
    opened = partial(open_pool, pool, work=tmp_path / "work")

    def stored(found: OpenPool) -> dict:
        return everything(found.pages, methods, selected_only=True)

    if where == "shuffled":
        same(held, stored(opened(engine=Shuffled())))
        return
    address = "local" if where != "dask" else request.getfixturevalue("dask_cluster").address
    with connect(address, processes=2) as engine:
        same(held, stored(opened(engine=engine)))
