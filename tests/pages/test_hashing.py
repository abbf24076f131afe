"""Hashed words and n-grams, against a slow reference."""

import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest

from lossline.pages.hashing import chunks, hash_ngrams, hash_words, join_words, space_words

WORDS = re.compile(r"\w+|[^\w\s]+")  # NLTK's WordPunctTokenizer


def reference_words(text: str) -> list[str]:
    return WORDS.findall(text.lower())


def random_texts() -> list[str]:
    draw = random.Random(0)
    alphabet = "ab_ .!,\n\tÀßİ1é-Σ\u00a0\u2003한🙂e\u0301"
    return ["".join(draw.choices(alphabet, k=draw.randrange(60))) for _ in range(300)] + ["", " "]


def one_to_one(names: list, hashes: np.ndarray) -> bool:
    pairs = set(zip(names, hashes.tolist(), strict=True))
    return len(pairs) == len(set(names)) == len(set(hashes.tolist()))


def test_words_are_those_of_the_word_punct_tokenizer():
    texts = random_texts()
    found = hash_words(texts)
    assert found.counts.tolist() == [len(reference_words(text)) for text in texts]
    assert one_to_one([w for text in texts for w in reference_words(text)], found.hashes)


@pytest.mark.parametrize("length", [2, 3, 13])
def test_ngrams_stay_inside_their_text_and_depend_on_the_order(length):
    texts = random_texts()
    found = join_words(hash_words(texts), length)
    grams = [
        [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
        for words in map(reference_words, texts)
    ]
    assert found.counts.tolist() == [len(own) for own in grams]
    assert one_to_one([gram for own in grams for gram in own], found.hashes)


def test_words_without_marks_leave_punctuation_out():
    words = hash_words(["a, b!? c-d"], marks=False)
    np.testing.assert_array_equal(words.hashes, hash_words(["a b c d"]).hashes)


def test_every_character_of_a_script_without_spaces_is_a_word():
    words = hash_words(["中文。カナ", "한국어 x", "ไทย"])
    assert words.counts.tolist() == [5, 2, 3]
    assert space_words("中文x。한국").split() == ["中", "文", "x。한국"]
    np.testing.assert_array_equal(
        hash_words(["中文"]).hashes, hash_words(["中 文"]).hashes
    )  # "ab" and "a b" differ, of course:
    assert len(hash_words(["ab"]).hashes) == 1


def test_a_hash_does_not_depend_on_the_texts_beside_it():
    texts = random_texts()
    together = hash_ngrams(texts, 2)
    alone = [hash_ngrams([text], 2) for text in texts]
    for width in range(2):
        np.testing.assert_array_equal(
            together[width].hashes, np.concatenate([own[width].hashes for own in alone])
        )


def test_a_text_longer_than_a_chunk_is_hashed_whole():
    long = "word other " * 100_000
    assert hash_words([long, "word"]).counts.tolist() == [200_000, 1]
    assert len(np.unique(hash_words([long, "word"]).hashes)) == 2


def test_chunks_cover_the_texts_in_order():
    texts = ["x" * 100_000, "", "y" * 300_000, "z", ""]
    assert [t for chunk in chunks(texts) for t in chunk] == texts
    assert len(list(chunks(texts))) == 2 and list(chunks([])) == []


def test_hashes_are_the_same_in_every_process():
    code = (
        "from lossline.pages.hashing import hash_ngrams;"
        "print([g.hashes.tolist() for g in hash_ngrams(['Ab c.', '中文'], 2)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {str([g.hashes.tolist() for g in hash_ngrams(["Ab c.", "中文"], 2)]) + "\n"}


def test_hashes_are_these_numbers():
    """Saved classifiers depend on them: a change needs a new format number in logistic.py."""
    assert hash_words(["hello"]).hashes.tolist() == [16965158064766073078]
