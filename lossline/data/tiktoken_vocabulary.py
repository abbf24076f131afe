"""Files of tiktoken ranks as vocabularies."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lossline.data.vocabularies import Tiktoken, Vocabulary, default_name
from lossline.errors import UserError
from lossline.installing import install_extra

# The patterns of the published encodings (openai/tiktoken, tiktoken_ext/openai_public.py; MIT).
PATTERNS = {
    "gpt2": r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s""",
    "cl100k": (
        r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+|
        ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
        r"""\s+(?!\S)|\s"""
    ),
    "o200k": "|".join(
        [
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
            r"""\p{N}{1,3}""",
            r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
            r"""\s*[\r\n]+""",
            r"""\s+(?!\S)""",
            r"""\s+""",
        ]
    ),
}


class TiktokenVocabulary(Vocabulary):
    """Byte-pair ranks in tiktoken's format, with one special token after the last rank."""

    def __init__(self, spec: Tiktoken) -> None:
        try:
            import tiktoken
        except ImportError as error:
            raise UserError(
                f"tiktoken vocabularies need the package tiktoken; {install_extra('data')}"
            ) from error
        ranks = _read(spec.path)
        eos = max(ranks.values()) + 1
        pattern = PATTERNS.get(spec.pattern, spec.pattern)
        name = spec.name or default_name(spec.path)
        if pattern.isidentifier():
            raise UserError(
                f"tiktoken.pattern: no pattern {pattern!r}; use {', '.join(PATTERNS)} or a regular "
                "expression"
            )
        self._encoding = tiktoken.Encoding(
            name, pat_str=pattern, mergeable_ranks=ranks, special_tokens={spec.eos_token: eos}
        )
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

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.array(self._encoding.encode_ordinary(text), np.int32) for text in texts]


def _read(path: str) -> dict[bytes, int]:
    try:
        lines = [line.split() for line in Path(path).read_bytes().splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except (ValueError, binascii.Error) as error:
        raise UserError(
            f"vocabulary: {path} is no file of tiktoken ranks (lines of base64 and a number)"
        ) from error
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise UserError(
            f"vocabulary: {path} lacks a rank for byte {missing[0]}; ranks must hold all 256 bytes"
        )
    return ranks
