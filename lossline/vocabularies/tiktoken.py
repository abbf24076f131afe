"""Vocabularies from files of tiktoken ranks."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.vocabularies.library_vocabulary import LibraryVocabulary
from lossline.vocabularies.specs import Tiktoken, default_name

# Limit on ranks: memory for the list of pieces grows with the largest rank, so a wrong number in
# the file must not fill memory. Ranks of published files end at 200,018.
MAX_RANK = 1 << 24

# Patterns of the published encodings (openai/tiktoken, tiktoken_ext/openai_public.py; MIT).
_GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"""
    r"""| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
_O200K = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)
PATTERNS = {
    "gpt2": _GPT2,
    "r50k_base": _GPT2,
    "p50k_base": _GPT2,
    "p50k_edit": _GPT2,
    "cl100k": _CL100K,
    "cl100k_base": _CL100K,
    "o200k": _O200K,
    "o200k_base": _O200K,
    "o200k_harmony": _O200K,
}


class TiktokenVocabulary(LibraryVocabulary):
    """Vocabulary from byte-pair ranks in tiktoken's format.

    The eos token is the only special token. Its id is the last rank + 1. Words are not kept: the
    library encodes them as fast as a dictionary of words would.

    Args:
        spec: path of the ranks, pattern and options.

    Raises:
        UserError: the ranks or the pattern are invalid, or the vocabulary changes text.
    """

    def __init__(self, spec: Tiktoken) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise UserError(
                f"tiktoken vocabularies need the package tiktoken; {install_extra('data')}"
            ) from error
        ranks = ranks_of(spec.path)
        eos = max(ranks.values()) + 1
        pattern = PATTERNS.get(spec.pattern, spec.pattern)
        name = spec.name or default_name(spec.path)
        if pattern.isidentifier():
            raise UserError(
                f"tiktoken.pattern: no pattern {pattern!r}. Use {', '.join(PATTERNS)} or a regular "
                "expression."
            )
        try:
            self._encoding = tiktoken.Encoding(
                name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={spec.eos_token: eos}
            )
        except ValueError as error:
            raise UserError(
                f"tiktoken.pattern {pattern!r} is not a regular expression: {error}. Correct it or "
                f"use {', '.join(PATTERNS)}."
            ) from error
        pieces = [b""] * (eos + 1)
        for piece, rank in ranks.items():
            pieces[rank] = piece
        content = hashlib.sha256(pattern.encode())
        for piece, rank in sorted(ranks.items(), key=lambda item: item[1]):
            content.update(b"%d %s\n" % (rank, base64.b64encode(piece)))
        super().__init__(
            name=name,
            kind="tiktoken",
            pieces=pieces,
            eos_id=eos,
            pad_id=eos,
            content=content.hexdigest(),
        )

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        return list(map(self._encode_ordinary, texts))

    def _encode_ordinary(self, text: str) -> list[int]:
        try:
            return self._encoding.encode_ordinary(text)
        except BaseException as error:  # a Rust panic does not derive from Exception
            if type(error).__name__ != "PanicException":
                raise
            raise UserError(
                f"vocabulary {self.name}: its pattern cannot split the text {text[:40]!r} of "
                f"{len(text)} characters ({error}). Set store.max_document_kilobytes or remove the "
                "document."
            ) from error

    def remedy(self) -> str:
        """Return how to make the vocabulary lossless, as a sentence of an error message."""
        return f"Set tiktoken.pattern to one that drops no character: {', '.join(PATTERNS)}."


def ranks_of(path: str) -> dict[bytes, int]:
    """Return the rank of every token in a file.

    Raises:
        UserError: the file has another format, or no rank for some byte.
    """
    ranks: dict[bytes, int] = {}
    line_of: dict[int, int] = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = _token_and_rank(line)
        except ValueError as error:
            raise UserError(
                f"vocabulary: {path} is not a file of tiktoken ranks (each line: base64 and a "
                f"number), line {number}: {error}. Correct the line."
            ) from error
        if ranks.get(token, rank) != rank or (rank in line_of and token not in ranks):
            first = line_of[ranks.get(token, rank)]
            raise UserError(
                f"vocabulary: {path}, line {number}: repeats the token or the rank of line "
                f"{first}. Give each token one rank."
            )
        ranks[token] = rank
        line_of[rank] = number
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise UserError(
            f"vocabulary: {path} lacks a rank for byte {missing[0]}. Give a file with ranks for "
            "all 256 bytes."
        )
    return ranks


def _token_and_rank(line: bytes) -> tuple[bytes, int]:
    parts = line.split()
    if len(parts) != 2:
        raise ValueError(f"{len(parts)} words instead of two")
    token, rank = base64.b64decode(parts[0], validate=True), int(parts[1])
    if not token or not 0 <= rank < MAX_RANK:
        raise ValueError(f"empty token, or rank {rank} outside 0 to {MAX_RANK - 1}")
    return token, rank
