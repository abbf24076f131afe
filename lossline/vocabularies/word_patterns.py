r"""Patterns that cut a text into words which a tokenizer encodes independently of each other.

Byte-level tokenizers first split a text with a regular expression such as GPT-2's, then encode each
match by itself. ``ascii_pattern`` returns a pattern for Python's ``re`` that finds the same matches
in ASCII text. Letters, digits and spaces beyond ASCII differ between Unicode versions, so they are
not classified here. A match that touches a character beyond ASCII is replaced by a longer word that
the tokenizer itself splits. This is exact for three reasons:

* The patterns have no look-behind: what follows a boundary does not depend on what precedes it.
* No match contains a space after a character that is not white space. So every such place is a
  boundary, and a longer word ends there or at the end of the text.
* A match whose next character is ASCII does not depend on what follows that character, except in a
  run of white space, whose end is checked, and in a contraction, whose apostrophe is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise

WHITE = r"[ \t-\r]"
NOT_WHITE = r"[^ \t-\r]"
LETTER = "[A-Za-z]"
MARK = r"[\x00-\x08\x0e-\x1f!-/:-@\[-`{-\x7f]"  # neither letter, nor digit, nor white space
BEYOND = r"[^\x00-\x7f]"

# From here to the next certain boundary. Characters that some Unicode version counts as white space
# are not followed by one.
_LONGER = r"[\s\S][^ ]*(?: +[^ ]*)*?(?:(?<=[^\s\u180e\u200b\ufeff])(?= )|\Z)"

_LETTERS, _DIGITS, _BEYOND = "A-Za-z", "0-9", r"\x80-\U0010ffff"

_SEPARATORS = "\x1e\x1d\x1c\x02\x03"  # control characters, which hardly occur in text

# Where a long text may be cut: before a space between ASCII letters.
CUT = re.compile("[A-Za-z](?= [A-Za-z])")

_CONTRACTION = r"'(?:[sdmtSDMT]|[lL][lL]|[vV][eE]|[rR][eE])"
_PREFIX = r"[\x00-\x09\x0b\x0c\x0e-/:-@\[-`{-\x7f]"  # one character before the letters of a word
_LAST_OR_ALL = f"{WHITE}+(?!{NOT_WHITE})|{WHITE}+"


def _exact(words: str, white: str, *, unless: str = BEYOND) -> re.Pattern[str]:
    run = f"(?!{WHITE}*{BEYOND})(?:{white})"
    return re.compile(f"(?>{words}|{run})(?!{unless})|{_LONGER}")


_GPT2 = _exact(
    rf" ?{LETTER}+| ?[0-9]+|'(?:[sdmt]|ll|ve|re)| ?{MARK}+",
    _LAST_OR_ALL,
)
_DIGITS_THEN_GPT2 = _exact(
    rf" ?{LETTER}+|[0-9]|'(?:[sdmt]|ll|ve|re)| ?{MARK}+",
    rf"{WHITE}+(?![^ \t-\r0-9])|{WHITE}+",
)


def _cl100k(digits: str, white: str) -> re.Pattern[str]:
    return _exact(
        rf" ?{LETTER}+|{_CONTRACTION}|{_PREFIX}{LETTER}+|{digits}| ?{MARK}+[\r\n]*",
        white,
    )


_NEWLINES = rf"{WHITE}*[\r\n]+|{_LAST_OR_ALL}"
_O200K = _exact(
    rf"{_PREFIX}?[A-Z]*[a-z]+(?:{_CONTRACTION})?|{_PREFIX}?[A-Z]+[a-z]*(?:{_CONTRACTION})?"
    rf"|[0-9]{{1,3}}| ?{MARK}+[\r\n/]*",
    _NEWLINES,
    unless=f"'?{BEYOND}",
)

_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_IGNORING_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_O200K_LETTERS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = _IGNORING_CASE + r"\p{N}{1,3}" + _TAIL
_KNOWN = {
    GPT2: _GPT2,
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": _GPT2,
    # Llama 3, OLMo 2, and cl100k as a tokenizer.json; Qwen 2
    LLAMA3: _cl100k("[0-9]{1,3}", _NEWLINES),
    _IGNORING_CASE + r"\p{N}" + _TAIL: _cl100k("[0-9]", _NEWLINES),
    # o200k
    _O200K_LETTERS + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": _O200K,
}


def ascii_pattern(pattern: str) -> re.Pattern[str] | None:
    """Return the pattern of the words of a ``tokenizer.json`` with a known pattern, or None.

    Patterns in tiktoken's notation are not known: the library of these files reads ``{1,3}+`` as a
    repetition, tiktoken as "never give back".
    """
    return _KNOWN.get(pattern)


def digits_then_gpt2() -> re.Pattern[str]:
    """Return the pattern of the words if GPT-2's pattern applies between single digits."""
    return _DIGITS_THEN_GPT2


def before_spaces() -> re.Pattern[str]:
    """Return a pattern that cuts before every space."""
    return re.compile(" ?[^ ]+| ")


def between_pieces(
    pieces: Iterable[str], *, before_spaces: bool = False
) -> tuple[re.Pattern[str], str] | None:
    """Return the words of a tokenizer that merges over the whole text, and what separates words.

    Text is cut between two characters that are not neighbours in any piece: no merge joins them, so
    the merges before and after that place do not depend on each other. Letters, digits and
    characters beyond ASCII are taken together, since most of them are neighbours.

    Args:
        pieces: every piece of several characters that can be made of text, with spaces as such.
        before_spaces: whether the tokenizer cuts before every space.

    Returns:
        The pattern of the words, and a character that is no neighbour of another in any piece, or
        "". None if a piece contains a space after a letter: no place to cut a long text is known.
    """
    neighbours: set[tuple[str, str]] = set()
    for piece in pieces:
        neighbours.update(pairwise(piece))
    following: dict[str, set[str]] = {}
    for first, second in neighbours:
        if not (before_spaces and second == " "):
            following.setdefault(_kind(first), set()).add(_kind(second))
    if _kind(" ") in following.get(_LETTERS, ()):
        return None
    # Each part of a word is a run of letters, a run beyond ASCII or one character.
    parts = [
        f"[{kind}]++(?=[{''.join(sorted(following[kind] - {kind}))}])"
        for kind in (_LETTERS, _BEYOND)
        if following.get(kind, set()) - {kind}
    ]
    alike: dict[str, list[str]] = {}
    for kind, then in following.items():
        if kind not in (_LETTERS, _BEYOND):
            alike.setdefault("".join(sorted(then)), []).append(kind)
    parts += [f"[{''.join(sorted(kinds))}](?=[{then}])" for then, kinds in sorted(alike.items())]
    runs = rf"(?:[{_LETTERS}]+|[{_BEYOND}]+|[\s\S])"
    taken = set().union(*neighbours)
    alone = (character for character in _SEPARATORS if character not in taken)
    word = f"(?:{'|'.join(parts)})*+{runs}" if parts else runs
    if (" ", " ") not in neighbours or before_spaces:
        word = f" +(?= )|{word}"  # an indentation is one word, without its last space
    return re.compile(word), next(alone, "")


def _kind(character: str) -> str:
    """Return the characters of which one is taken for all, as in brackets of a pattern."""
    if character > "\x7f":
        return _BEYOND
    if character.isalpha():
        return _LETTERS
    return _DIGITS if character.isdigit() else re.escape(character)
