"""Selections as a source of text: the index of a selection and the text of its pool."""

import json

import pandas as pd
import pytest

from lossline.corpora import sources
from lossline.corpora.pools import MissingDomains, Pool
from lossline.corpora.selected import (
    COLUMNS,
    Selected,
    pool_facts,
    pool_from_facts,
    write_selection,
)
from lossline.errors import UserError


@pytest.fixture
def pool(tmp_path):
    for domain in ("code", "verse"):
        folder = tmp_path / "data" / "text" / domain
        folder.mkdir(parents=True)
        for split, count in (("train", 6), ("validation", 2)):
            lines = [{"text": f"{domain} {split} {i} é"} for i in range(count)]
            text = "\n".join(json.dumps(line) for line in lines)
            (folder / f"{split}.jsonl").write_text(text + "\n")
    return Pool(root=str(tmp_path / "data"), domains=("code", "verse"))


def write(folder, pool, pages):
    rows = [
        {"id": p.id, "domain": p.domain, "rank": i, "score": -i, "tokens": 4,
         "bytes": len(p.text.encode())}
        for i, p in enumerate(pages)
    ]  # fmt: skip
    manifest = {
        "method": "dsir", "target": "code", "benchmarks": ["mbpp"], "options": {},
        "pool": pool_facts(pool, "f" * 64), "scores": "", "budget": 12, "tokens": 4 * len(rows),
        "pages": len(rows), "seed": 0, "bytes": sum(row["bytes"] for row in rows),
    }  # fmt: skip
    write_selection(folder, pd.DataFrame(rows, columns=list(COLUMNS)), manifest)


def test_a_selection_yields_its_pages_and_no_others(tmp_path, pool):
    pages = list(pool.pages("train"))
    chosen = [pages[9], pages[1], pages[4]]
    write(tmp_path / "s", pool, chosen)
    source = Selected(name="mine", folder=str(tmp_path / "s"))
    found = list(sources.documents(source, "train"))
    assert sorted(found) == sorted(page.text for page in chosen)
    assert sources.splits(source) == ["train"]
    assert sources.text_bytes(source, "train", sources.Subset()) == sum(
        len(text.encode()) for text in found
    )
    assert source.provenance["method"] == "dsir" and "bytes" not in source.provenance


def test_two_selections_have_two_identities(tmp_path, pool):
    pages = list(pool.pages("train"))
    write(tmp_path / "a", pool, pages[:2])
    write(tmp_path / "b", pool, pages[:3])
    write(tmp_path / "c", pool, pages[:2])
    a, b, c = (
        sources.identity(Selected(name="x", folder=str(tmp_path / name)), "train") for name in "abc"
    )
    assert a == c != b


def test_a_pool_that_changed_is_one_line(tmp_path, pool):
    write(tmp_path / "s", pool, list(pool.pages("train"))[:3])
    file = tmp_path / "data" / "text" / "code" / "train.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[1:]) + "\n")
    source = Selected(name="mine", folder=str(tmp_path / "s"))
    with pytest.raises(UserError, match=r"1 of 3 selected pages are not in pool pool .*code\)"):
        list(source.pages())


def test_a_moved_pool_can_be_given(tmp_path, pool):
    write(tmp_path / "s", pool, list(pool.pages("train"))[:3])
    (tmp_path / "data").rename(tmp_path / "moved")
    folder = str(tmp_path / "s")
    with pytest.raises(UserError, match="not gathered"):
        list(Selected(name="mine", folder=folder).pages())
    moved = Pool(root=str(tmp_path / "moved"), domains=("code", "verse"))
    assert len(list(Selected(name="mine", folder=folder, pool=moved).pages())) == 3


def test_pool_facts_and_back(pool):
    other = Pool(root=pool.root, domains=("code",), scored_pages=3, missing=MissingDomains.SKIP)
    for each in (pool, other):
        facts = json.loads(json.dumps(pool_facts(each, "f")))
        assert pool_from_facts(facts, "here") == each


def test_damaged_folders(tmp_path, pool):
    with pytest.raises(UserError, match="contains no selection"):
        _ = Selected(name="x", folder=str(tmp_path / "none")).manifest
    write(tmp_path / "s", pool, list(pool.pages("train"))[:3])
    index = tmp_path / "s" / "pages.parquet"
    pd.read_parquet(index).iloc[:2].to_parquet(index)
    with pytest.raises(UserError, match="changed after it was written"):
        _ = Selected(name="x", folder=str(tmp_path / "s")).manifest
    (tmp_path / "s" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not the manifest of a selection"):
        _ = Selected(name="x", folder=str(tmp_path / "s")).manifest


def test_prepare_names_a_folder_without_a_selection(tmp_path, pool):
    write(tmp_path / "s", pool, list(pool.pages("train"))[:2])
    with pytest.raises(UserError, match="contains no selection"):
        sources.identity(Selected(name="x", folder=str(tmp_path / "none")), "train")
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    for bad in ({}, 3, None):
        (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest | {"pool": bad}))
        with pytest.raises(UserError, match="not the manifest of a selection"):
            str(Selected(name="x", folder=str(tmp_path / "s")))


def test_a_page_whose_white_space_changed_is_another_page(tmp_path, pool):
    """The id of a page ignores white space; the bytes of the index do not."""
    write(tmp_path / "s", pool, list(pool.pages("train"))[:3])
    file = tmp_path / "data" / "text" / "code" / "train.jsonl"
    file.write_text(file.read_text().replace("code train 0", "code  train  0"))
    with pytest.raises(UserError, match="1 of 3 selected pages are not in pool"):
        list(Selected(name="mine", folder=str(tmp_path / "s")).pages())
