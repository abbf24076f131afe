"""Find the words that a ``tokenizer.json`` encodes independently of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain, product
from typing import Any

from lossline.vocabularies import tokenizer_json
from lossline.vocabularies.vocabulary import METASPACE
from lossline.vocabularies.word_memory import Split
from lossline.vocabularies.word_patterns import (
    GPT2,
    ascii_pattern,
    before_spaces,
    between_pieces,
    digits_then_gpt2,
)

Step = dict[str, Any]

_UNKNOWN = "its pre-tokenizer is not known"
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_ADDED_SCORES = "its model adds scores over the whole text"
_SPACES = ({"String": " "}, {"Regex": " "})


def split_of(description: Step) -> Split | str:
    """Return how a tokenizer cuts a text into words, or the reason why that is not known.

    Args:
        description: the parsed file, without a post-processor, truncation and padding. Special
            tokens must be encoded as text, and no text may contain a metaspace.
    """
    added = _added_pattern(tokenizer_json.added_tokens(description))
    if isinstance(added, str):
        return added
    normalizers = _steps(description.get("normalizer"), "normalizers")
    steps = _steps(description.get("pre_tokenizer"), "pretokenizers")
    if steps and steps[-1].get("type") == "ByteLevel":
        words = None if normalizers else _byte_level_words(steps)
        return Split(words, added) if words else _UNKNOWN
    if added is not None:
        return "it has added tokens that are not special"
    if not all(map(_writes_metaspace, normalizers)) or not all(map(_is_metaspace, steps)):
        return _UNKNOWN
    if len(steps) > 1 or not (steps or normalizers):
        return _UNKNOWN
    split = bool(steps) and steps[0].get("split", True)
    if description["model"].get("type") == "BPE":
        return _words_of_merges(description["model"], before_spaces=split)
    return Split(before_spaces()) if split else _ADDED_SCORES


def words_of_pieces(pieces: Iterable[str], *, before_spaces: bool = False) -> Split | str:
    """Return the words of a tokenizer that merges over the whole text; see ``between_pieces``.

    Args:
        pieces: every piece that can be made of text, with metaspaces.
        before_spaces: whether the tokenizer cuts before every space.
    """
    words = between_pieces(
        (piece.replace(METASPACE, " ") for piece in pieces), before_spaces=before_spaces
    )
    if words is None:
        return "its pieces join words"
    pattern, separator = words
    return Split(pattern, separator=separator)


def _steps(step: Any, key: str) -> list[Step]:
    if not isinstance(step, dict):
        return []
    if step.get("type") != "Sequence":
        return [step]
    return [inner for item in step.get(key) or [] for inner in _steps(item, key)]


def _byte_level_words(steps: list[Step]) -> re.Pattern[str] | None:
    *before, last = steps
    if last.get("add_prefix_space", True):
        return None
    if not last.get("use_regex", True):
        pattern = _pattern_of_split(before)
        return ascii_pattern(pattern) if pattern else None
    if not before:
        return ascii_pattern(GPT2)
    if before == [{"type": "Digits", "individual_digits": True}]:
        return digits_then_gpt2()
    return None


def _pattern_of_split(steps: list[Step]) -> str | None:
    """Return the regular expression of a single step that makes each match a word."""
    if len(steps) != 1 or steps[0].get("type") != "Split" or steps[0].get("invert"):
        return None
    pattern = steps[0].get("pattern")
    if steps[0].get("behavior") != "Isolated" or not isinstance(pattern, dict):
        return None
    return pattern.get("Regex")


def _writes_metaspace(step: Step) -> bool:
    return (
        step.get("type") == "Replace"
        and step.get("content") == METASPACE
        and step.get("pattern") in _SPACES
    )


def _is_metaspace(step: Step) -> bool:
    return (
        step.get("type") == "Metaspace"
        and step.get("replacement") == METASPACE
        and step.get("prepend_scheme") == "never"
    )


def _words_of_merges(model: Step, *, before_spaces: bool) -> Split | str:
    options = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix", "dropout")
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    if any(map(model.get, options)) or any(map(_BYTE_PIECE.fullmatch, chain.from_iterable(merges))):
        return "its merges depend on more than a word"
    return words_of_pieces(map("".join, merges), before_spaces=before_spaces)


def _added_pattern(tokens: list[Step]) -> re.Pattern[str] | str | None:
    """Return a pattern of the added tokens that match in text, or the reason why there is none.

    The library finds the leftmost and then longest match, first among tokens that are not
    normalized. Special tokens are passed over, but could hide a match that overlaps with them.
    """
    plain = [token for token in tokens if not token.get("special") and token.get("content")]
    if not plain:
        return None
    if any(token.get(flag) for token in plain for flag in ("single_word", "lstrip", "rstrip")):
        return "an added token depends on the text around it"
    first = [token["content"] for token in plain if not token.get("normalized")]
    then = [token["content"] for token in plain if token.get("normalized")]
    special = [token["content"] for token in tokens if token.get("special")]
    if any(_overlap(a, b) for a, b in (*product(first + then, special), *product(first, then))):
        return "its added tokens overlap"
    if any(re.search("[A-Za-z] ", text) for text in first + then):
        return "an added token contains several words"
    longest_first = sorted(first + then, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))


def _overlap(a: str, b: str) -> bool:
    """Return whether occurrences of two texts can share a character."""
    if not b or a in b or b in a:
        return bool(b)
    shorter = range(1, min(len(a), len(b)))
    return any(a.endswith(b[:size]) or b.endswith(a[:size]) for size in shorter)
