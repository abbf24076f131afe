"""Vocabulary training uses all of the text, whatever its lines and letters, or fails clearly."""

import json
import random
import time
from pathlib import Path

import pytest

from lossline import vocabularies
from lossline.corpora.sources import JsonLines
from lossline.errors import UserError
from lossline.stores.vocabulary_training import (
    TrainVocabulary,
    train_vocabulary,
)
from lossline.vocabularies import Vocabulary, training
from lossline.vocabularies.training import Algorithm

SENTENCEPIECE = (Algorithm.UNIGRAM, Algorithm.SENTENCEPIECE_BPE)


def chinese(words: int, seed: int = 0) -> str:
    """Return words of 2 or 3 characters from an alphabet of 60, with stops, without spaces."""
    draw = random.Random(seed)
    letters = [chr(0x4E00 + 7 * i) for i in range(60)]
    known = ["".join(draw.choices(letters, k=draw.choice((2, 3)))) for _ in range(80)]
    return "".join(draw.choice(known) + draw.choice(("", "", "，", "。")) for _ in range(words))


def train(folder: Path, texts: list[str], algorithm: Algorithm, size: int) -> Vocabulary:
    path = folder / ("v.json" if algorithm is Algorithm.BPE else "v.model")
    path.write_bytes(training.train(iter(texts), algorithm, size, name="v"))
    return vocabularies.load(str(path))


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize(
    "texts",
    [
        [chinese(30, seed) for seed in range(40)],
        [chinese(1500)],
        [chinese(3000) + " " + chinese(3000)],  # character_coverage excludes the single space
    ],
    ids=["documents", "one long line", "one space"],
)
def test_training_works_without_spaces(
    tmp_path: Path, algorithm: Algorithm, texts: list[str]
) -> None:
    vocabulary = train(tmp_path, texts, algorithm, 400)
    assert vocabulary.vocab_size == 400
    for text in (*texts, " a b\n\t c  ", "\u2581"):
        assert vocabulary.decode(vocabulary.encode(text)) == text
    # The vocabulary learned characters and words, not only bytes.
    assert len(vocabulary.encode(texts[0])) < 0.4 * len(texts[0].encode())


@pytest.mark.parametrize("algorithm", SENTENCEPIECE)
@pytest.mark.parametrize(
    "text",
    ["😀👍🏁" * 3000, "жщюя " * 2000, "жщюя\u2585южжя" * 40, "жщюя\0южжя " * 40],
    ids=["line of 36 kB", "line of 10 kB", "reserved U+2585", "NUL"],
)
def test_sentencepiece_training_uses_every_line(
    tmp_path: Path, algorithm: Algorithm, text: str
) -> None:
    vocabulary = train(tmp_path, ["the hat, that bath. " * 20, text], algorithm, 275)
    letters = set(text) - set(" \0\u2585")
    assert letters <= {piece.decode(errors="replace") for piece in vocabulary.pieces}
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_byte_level_bpe_of_one_long_word_takes_seconds(tmp_path: Path) -> None:
    """Without the word limit, 100,000 letters take 5 s and a million letters take 500 s."""
    word = "".join(random.Random(0).choices("acgt", k=400_000))
    start = time.process_time()
    vocabulary = train(tmp_path, [word, "the hat"], Algorithm.BPE, 290)
    assert time.process_time() - start < 20
    assert vocabulary.vocab_size == 290 and b"acg" in vocabulary.pieces


def test_words_below_the_limit_are_not_split(tmp_path: Path) -> None:
    """A long document of short words gives the same vocabulary as the separate words."""
    draw = random.Random(3)
    words = [" " + "".join(draw.choices("abc", k=draw.randrange(1, 9))) for _ in range(8000)]
    whole = train(tmp_path, ["".join(words)], Algorithm.BPE, 330)
    apart = train(tmp_path, words, Algorithm.BPE, 330)
    assert whole.hash == apart.hash


@pytest.mark.parametrize("algorithm", Algorithm)
def test_too_little_text_is_refused_and_leaves_no_files(
    tmp_path: Path, algorithm: Algorithm
) -> None:
    path = tmp_path / "x.jsonl"
    source = JsonLines(name="x", train=(str(path),))
    for texts, size in (
        ([], 300),
        (["", " ", "\n\n"], 300),
        (["a"], 300),
        (["a" * 1000], 1000),
        ([chinese(500)], 100_000),
    ):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        spec = TrainVocabulary(name="v", algorithm=algorithm, vocab_size=size, sets=(source,))
        with pytest.raises(UserError, match=r"vocabulary v: .*(with|more) text\.$") as caught:
            train_vocabulary(spec, tmp_path / "root")
        assert "()" not in str(caught.value)
        assert not list((tmp_path / "root" / "vocabularies").iterdir())


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocabularies" / "v").mkdir(parents=True)
    (tmp_path / "x.jsonl").write_text('{"text": "the hat"}\n')
    source = JsonLines(name="x", train=(str(tmp_path / "x.jsonl"),))
    spec = TrainVocabulary(name="v", algorithm=Algorithm.BPE, vocab_size=300, sets=(source,))
    with pytest.raises(
        UserError, match=r"vocabularies/v: contains no vocabulary .* choose another"
    ):
        train_vocabulary(spec, tmp_path)


@pytest.mark.parametrize("algorithm", SENTENCEPIECE)
def test_more_letters_than_ids_is_refused(tmp_path: Path, algorithm: Algorithm) -> None:
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
    with pytest.raises(UserError, match=r"smaller than required_chars. 500 vs 2\d\d\d"):
        train(tmp_path, [letters], algorithm, 500)
