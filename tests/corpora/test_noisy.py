"""Noisy pages: the shares of their noise, their reproducibility, and what they leave out."""

import itertools
import json
from collections import Counter

import pytest

from lossline.corpora import sources
from lossline.corpora.deduplication import content_hash
from lossline.corpora.noisy import Noise, Noisy
from lossline.errors import UserError
from lossline.stores.jobs import text_job

NOISE = {"markup": 0.1, "numbers": 0.1, "characters": 0.15, "words": 0.05}


@pytest.fixture
def root(tmp_path):
    """Two domains of 100 documents of 1,200 bytes."""
    for domain in ("verse", "law"):
        folder = tmp_path / "text" / domain
        folder.mkdir(parents=True)
        texts = [f"{domain} {number:03d} " * (1200 // (len(domain) + 5)) for number in range(100)]
        lines = [json.dumps({"text": text}) for text in texts]
        (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return str(tmp_path)


def noisy(root, **options):
    return Noisy(name="web", root=root, megabytes={"verse": 0.05, "law": 0.02}, **options)


def test_shares_of_noise_are_those_asked_for(root):
    sizes = Counter()
    for page in noisy(root, noise=NOISE).pages():
        for piece in page:
            sizes[piece.kind] += len(piece.text.encode())
    total = sum(sizes.values())
    for kind, share in NOISE.items():
        assert sizes[kind] / total == pytest.approx(share, abs=0.03)
    assert sizes["verse"] == pytest.approx(50_000, abs=1300)
    assert sizes["law"] == pytest.approx(20_000, abs=1300)


def test_text_without_its_noise_is_the_text_of_the_domain_in_order(root):
    files = sources.JsonLines(name="verse", train=(f"{root}/text/verse/train.jsonl",))
    clean = set(sources.documents(files, "train"))
    for page in noisy(root, noise=NOISE).pages():
        if page[0].kind == "verse":
            assert "".join(piece.text for piece in page if piece.kind == "verse") in clean


def test_pages_differ_in_how_noisy_they_are(root):
    shares = []
    for page in noisy(root, noise=NOISE).pages():
        kept = sum(len(piece.text) for piece in page if piece.kind in ("verse", "law"))
        shares.append(1 - kept / sum(len(piece.text) for piece in page))
    assert min(shares) < 0.15 and max(shares) > 0.55


def test_equal_options_give_equal_pages_wherever_the_text_is(root, tmp_path):
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "text").symlink_to(tmp_path / "text")
    first, moved = noisy(root, noise=NOISE), noisy(str(tmp_path / "moved"), noise=NOISE)
    assert list(first.texts()) == list(moved.texts())
    assert first.identity() == moved.identity()


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"noise": {"markup": 0.1}}, {"skip_megabytes": {"law": 0.01}},
     {"page_kilobytes": 1.0}],
)  # fmt: skip
def test_each_option_changes_pages_and_request(root, change):
    first, other = noisy(root, noise=NOISE), noisy(root, **{"noise": NOISE, **change})
    assert list(first.texts()) != list(other.texts())
    jobs = [text_job(s, "train", sources.Subset(), "v") for s in (first, other)]
    assert jobs[0] != jobs[1]


def test_other_text_changes_the_request(root, tmp_path):
    before = noisy(root).identity()
    with (tmp_path / "text" / "law" / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    assert noisy(root).identity() != before


def test_skipped_text_is_left_for_other_sets(root):
    """The first 0.06 MB of a domain and what comes after it have no document in common."""
    first = Noisy(name="a", root=root, megabytes={"verse": 0.06})
    rest = Noisy(name="b", root=root, megabytes={"verse": 0.05}, skip_megabytes={"verse": 0.06})
    one, other = set(first.texts()), set(rest.texts())
    assert len(one) == 50 and len(other) > 35 and not one & other


def test_a_set_cut_to_megabytes_shares_no_document_with_what_skips_them(root, tmp_path):
    """A cut set has the smallest content hashes, and gathered files are in the order of hashes."""
    file = tmp_path / "text" / "verse" / "train.jsonl"
    texts = sorted((json.loads(line)["text"] for line in file.open()), key=content_hash)
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    cut = set(sources.Subset(max_megabytes=0.06).apply(texts))
    rest = Noisy(name="b", root=root, megabytes={"verse": 0.05}, skip_megabytes={"verse": 0.062})
    other = set(rest.texts())
    assert len(cut) == 50 and len(other) > 35 and not cut & other


def test_domains_are_interleaved(root):
    kinds = [page[0].kind for page in noisy(root).pages()]
    assert sum(a != b for a, b in itertools.pairwise(kinds)) > 3


def test_a_page_is_its_pieces_and_a_document_of_the_source(root):
    source = noisy(root, noise=NOISE)
    joined = ["".join(piece.text for piece in page) for page in source.pages()]
    assert list(sources.documents(source, "train")) == joined
    assert sources.splits(source) == ["train"]
    size = sum(len(text.encode()) for text in joined)
    assert sources.text_bytes(source, "train", sources.Subset()) == pytest.approx(size, rel=0.1)


def test_random_words_are_words_of_the_page(root):
    for page in noisy(root, noise={"words": 0.3}).pages():
        words = set("".join(p.text for p in page if p.kind in ("verse", "law")).split())
        for piece in page:
            if piece.kind == Noise.WORDS.value:
                assert set(piece.text.split()) <= words


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"megabytes": {}}, "no domain named"),
        ({"megabytes": {"verse": -1}}, "'verse' has -1"),
        ({"skip_megabytes": {"prose": 1}}, "Name it in noisy.megabytes too"),
        ({"noise": {"static": 0.1}}, "no kind 'static'"),
        ({"noise": {"words": 0.6, "markup": 0.4}}, "sum below 1"),
        ({"page_kilobytes": 0.1}, "at least 0.3"),
        ({"seed": -1}, "noisy.seed"),
    ],
)
def test_wrong_options_are_refused(root, options, message):
    with pytest.raises(UserError, match=message):
        Noisy(**{"name": "web", "root": root, "megabytes": {"verse": 0.01}, **options})


def test_a_domain_that_is_missing_or_too_small_is_refused(root):
    with pytest.raises(UserError, match="Gather 'prose'"):
        list(Noisy(name="web", root=root, megabytes={"prose": 0.01}).pages())
    with pytest.raises(UserError, match=r"'verse' has 0\.88 MB less"):
        list(Noisy(name="web", root=root, megabytes={"verse": 1.0}).pages())
