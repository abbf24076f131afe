"""A pool scores models on validation pages and selects from training pages only."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lossline import vocabularies
from lossline.corpora.deduplication import content_hash, split_of
from lossline.corpora.pools import MissingDomains, Page, Pool
from lossline.corpora.sources import identity
from lossline.errors import UserError
from lossline.stores.prepare_all import PrepareOptions, StoreJob, prepare
from lossline.stores.token_store import TokenStore


def texts(domain: str, count: int = 40) -> list[str]:
    return [f"Page {i} of {domain}: {i * 7919 % 1000} words.\n" for i in range(count)]


def lines(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def gathered(root: Path, domain: str, pages: list[str], share: float = 0.3) -> None:
    """Plant a corpus as ``gather`` writes it."""
    for split in ("train", "validation"):
        chosen = [page for page in pages if split_of(content_hash(page), share) == split]
        ordered = sorted(chosen, key=content_hash)
        records = [{"id": content_hash(page), "text": page} for page in ordered]
        lines(root / "text" / domain / f"{split}.jsonl", records)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for domain in ("code", "news"):
        gathered(tmp_path, domain, texts(domain))
    return tmp_path


def own(path: Path, *domains: str, count: int = 40) -> Path:
    records = [{"domain": d, "text": text} for d in domains for text in texts(d, count)]
    return lines(path, records)


def test_gathered_domains_give_their_pages_in_order(root: Path) -> None:
    pool = Pool(root=str(root), domains=("news", "code"), scored_pages=4)
    assert pool.names() == ("news", "code")
    assert pool.left_out() == ()
    for split in ("train", "validation"):
        expected = []
        for domain in ("news", "code"):
            pages = [t for t in texts(domain) if split_of(content_hash(t), 0.3) == split]
            expected += [
                Page(id=content_hash(text), domain=domain, text=text)
                for text in sorted(pages, key=content_hash)
            ]
        assert list(pool.pages(split)) == expected
    assert {page.domain for page in pool.pages()} == {"news", "code"}


@pytest.mark.parametrize("where", ["gathered", "own"])
def test_scored_pages_have_the_smallest_hashes_of_validation(root: Path, where: str) -> None:
    if where == "gathered":
        pool = Pool(root=str(root), domains=("news", "code"), scored_pages=3)
    else:
        own(root / "own.jsonl", "news", "code")
        pool = Pool(files=(str(root / "*.jsonl"),), validation_share=0.3, scored_pages=3)
    expected = []
    for domain in ("news", "code"):
        hashes = sorted(
            content_hash(t) for t in texts(domain) if split_of(content_hash(t), 0.3) == "validation"
        )
        assert len(hashes) > 3
        expected += [(domain, page) for page in hashes[:3]]
    assert [(page.domain, page.id) for page in pool.scored()] == expected
    assert list(pool.pages("scored")) == list(pool.scored())


def test_own_files_are_split_by_content_and_repeats_are_dropped(tmp_path: Path) -> None:
    pages = texts("mail") + texts("mail")[:10]
    rows = [{"body": page, "site": "mail"} for page in pages]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "own.jsonl.gz").write_bytes(gzip.compress(data))
    pool = Pool(
        files=(str(tmp_path / "own.jsonl.gz"),),
        text_field="body",
        domain_field="site",
        validation_share=0.4,
    )
    train, validation = list(pool.pages()), list(pool.pages("validation"))
    assert sorted(page.text for page in train + validation) == sorted(texts("mail"))
    assert {split_of(page.id, 0.4) for page in train} == {"train"}
    assert {split_of(page.id, 0.4) for page in validation} == {"validation"}


def test_a_validation_page_of_one_domain_is_in_no_train_split(root: Path) -> None:
    """The own file has a smaller validation share, so its copies of pages fall into train."""
    held_out = [t for t in texts("news") if 0.05 < int(content_hash(t)[:8], 16) / 2**32 < 0.3]
    assert held_out
    records = [{"domain": "copies", "text": text} for text in held_out + texts("copies")]
    file = lines(root / "own.jsonl", records)
    pool = Pool(root=str(root), domains=("news",), files=(str(file),), validation_share=0.05)
    in_train = {page.id for page in pool.pages("train")}
    assert {content_hash(text) for text in texts("copies")} & in_train
    assert not in_train & {page.id for page in pool.pages("validation")}
    assert not in_train & {page.id for page in pool.scored()}


def test_missing_domains_are_refused_or_left_out(root: Path, capsys: pytest.CaptureFixture) -> None:
    pool = Pool(root=str(root), domains=("news", "absent", "code"))
    with pytest.raises(UserError, match=r"domain 'absent'.*text/absent is not gathered.*skip"):
        list(pool.pages())
    pool = Pool(
        name="skips", root=str(root), domains=("news", "absent", "code"),
        missing=MissingDomains.SKIP,
    )  # fmt: skip
    assert pool.names() == ("news", "code")
    assert pool.left_out() == ("absent",)
    list(pool.scored())
    assert capsys.readouterr().err == "pool skips: leaves out absent (no pages there)\n"
    with pytest.raises(UserError, match="none of its 1 domains has pages"):
        Pool(root=str(root), domains=("absent",), missing=MissingDomains.SKIP).names()


def test_a_domain_without_a_page_to_score_is_named(root: Path) -> None:
    file = own(root / "own.jsonl", "code")
    with file.open("a") as more:
        more.write(json.dumps({"domain": "single", "text": "One page."}) + "\n")
    pool = Pool(files=(str(file),), validation_share=0.3)
    with pytest.raises(UserError, match=r"domain 'single': has no page in the .* split"):
        pool.names()
    pool = Pool(files=(str(file),), validation_share=0.3, missing=MissingDomains.SKIP)
    assert pool.left_out() == ("single",)
    assert {page.domain for split in ("train", "validation") for page in pool.pages(split)} == {
        "code"
    }
    (root / "text" / "news" / "validation.jsonl").write_text("")
    with pytest.raises(UserError, match=r"domain 'news': .*has a split without pages"):
        Pool(root=str(root), domains=("news",)).names()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "caf\xe9", "domain": "a"}', "byte 0xe9 is not UTF-8"),
        (b'{"text": "\\ud83d", "domain": "a"}', "lone surrogate"),
        (b'{"text": "no domain"}', "'domain' is missing"),
        (b'{"text": "x", "domain": ["a"]}', "'domain' is a list"),
        (b'{"domain": "a"}', "'text' is missing"),
        (b'{"text": " \\n", "domain": "a"}', "'text' is blank"),
    ],
)
def test_an_invalid_line_is_named(root: Path, line: bytes, message: str) -> None:
    file = own(root / "own.jsonl", "code", count=3)
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(UserError) as error:
        list(Pool(files=(str(file),)).scored())
    assert f"{file}, line 4" in str(error.value)
    assert message in str(error.value)


def test_a_pool_is_checked_before_use(root: Path) -> None:
    with pytest.raises(UserError, match="no domains"):
        Pool()
    with pytest.raises(UserError, match="'news' occurs twice"):
        Pool(domains=("news", "code", "news"))
    with pytest.raises(UserError, match="scored_pages"):
        Pool(domains=("news",), scored_pages=0)
    with pytest.raises(UserError, match="validation_share"):
        Pool(domains=("news",), validation_share=1.0)
    with pytest.raises(UserError, match=r"no file .*absent\.jsonl"):
        Pool(files=(str(root / "absent.jsonl"),)).names()
    file = own(root / "own.jsonl", "news")
    with pytest.raises(UserError, match=r"'news' occurs in pool\.domains and in pool\.files"):
        Pool(root=str(root), domains=("news",), files=(str(file),)).names()
    with pytest.raises(UserError, match="no split 'test'"):
        list(Pool(root=str(root), domains=("news",)).pages("test"))


def test_the_fingerprint_depends_on_the_pages_alone(root: Path, tmp_path_factory) -> None:
    def pool(place: Path, **other) -> Pool:
        return Pool(**({"root": str(place), "domains": ("news", "code")} | other))

    first = pool(root).fingerprint()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for domain in ("code", "news"):
        gathered(elsewhere, domain, texts(domain))
    assert pool(elsewhere, name="other").fingerprint() == first
    assert pool(root, domains=("code", "news")).fingerprint() != first
    assert pool(root, scored_pages=2).fingerprint() != first
    file = root / "text" / "code" / "train.jsonl"
    file.write_text(file.read_text().replace("words", "word", 1))
    assert pool(root).fingerprint() != first


def test_prepare_stores_the_scored_pages_in_order(root: Path) -> None:
    pool = Pool(name="pages", root=str(root), domains=("news", "code"), scored_pages=3)
    job = StoreJob(vocabulary="bytes", sets=(pool,), splits=("scored", "train"))
    prepare(PrepareOptions(root=str(root), stores=(job,), processes=1))
    vocabulary = vocabularies.load("bytes")
    for split in ("scored", "train"):
        store = TokenStore.open(root / "stores" / "bytes" / "pages" / split, verify=True)
        pages = list(pool.pages(split))
        found = [vocabulary.decode(store.document(i)) for i in range(store.num_documents)]
        assert found == [page.text for page in pages]
    with pytest.raises(UserError, match=r"pages/scored: a limit would change"):
        job = StoreJob(vocabulary="bytes", sets=(pool,), splits=("scored",), max_documents=2)
        prepare(PrepareOptions(root=str(root), stores=(job,), processes=1))


def test_a_changed_pool_has_another_identity(root: Path) -> None:
    pool = Pool(root=str(root), domains=("news",))
    before = {split: identity(pool, split) for split in ("train", "scored")}
    file = root / "text" / "news" / "train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert identity(pool, "train") != before["train"]
    assert identity(pool, "scored") == before["scored"]


@pytest.mark.parametrize("name", ["", "..", "a\nb"])
def test_a_set_whose_name_cannot_name_a_folder_makes_no_store(root: Path, name: str) -> None:
    pool = Pool(name=name, root=str(root), domains=("news", "code"))
    job = StoreJob(vocabulary="bytes", sets=(pool,), splits=("scored",))
    with pytest.raises(UserError, match="name of a Pool"):
        prepare(PrepareOptions(root=str(root), stores=(job,), processes=1))
    assert not (root / "stores").exists()


def test_stores_of_sets_that_are_not_gathered_are_refused_or_left_out(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    for domain in ("news", "code"):
        facts = json.dumps({"content_license": "CC0-1.0"})
        (root / "text" / domain / "provenance.json").write_text(facts)
    job = StoreJob(vocabulary="bytes", sets=("absent", "news"), splits=("train",), tasks=("quiz",))
    with pytest.raises(UserError, match="absent: no such set"):
        prepare(PrepareOptions(root=str(root), stores=(job,), processes=1))
    job = replace(job, missing=MissingDomains.SKIP)
    prepare(PrepareOptions(root=str(root), stores=(job,), processes=1))
    out, err = capsys.readouterr()
    assert "1 stores made" in out
    assert "prepare: leaves out absent:" in err and "prepare: leaves out quiz:" in err
