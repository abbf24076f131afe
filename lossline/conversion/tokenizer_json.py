"""A ``tokenizer.json`` for each kind of vocabulary, with the token ids of the vocabulary.

What a kind does beside the library is written in the library's own steps: bytes are a byte-level
BPE without merges, SentencePiece a BPE or Unigram with byte fallback, tiktoken a byte-level BPE
whose merges follow from the ranks. One thing has no such step: a text with U+2581, SentencePiece's
character for a space, is encoded with spaces instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from lossline.errors import UserError
from lossline.vocabularies import (
    METASPACE,
    Bytes,
    HuggingFace,
    SentencePiece,
    Tiktoken,
    Vocabulary,
    VocabularySpec,
    round_trip_probes,
)
from lossline.vocabularies.huggingface import byte_characters, exact_description
from lossline.vocabularies.library_vocabulary import HARD_TO_SPLIT

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_NEVER = -1e6  # score of a piece that no text may become
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def describe(spec: VocabularySpec, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json`` that gives the token ids of a vocabulary.

    Args:
        spec: specification of the vocabulary.
        vocabulary: the vocabulary, loaded.

    Raises:
        UserError: the tokenizers library would give other ids.
    """
    if isinstance(spec, HuggingFace):
        return exact_description(spec)
    if isinstance(spec, Bytes):
        description = _of_bytes()
    elif isinstance(spec, SentencePiece):
        description = _of_sentencepiece(spec)
    else:
        description = _of_ranks(spec, vocabulary)
    _check(description, vocabulary)
    return description


def name_of(description: Mapping[str, Any], token_id: int) -> str:
    """Return the name of a token in a ``tokenizer.json``."""
    for added in description.get("added_tokens") or ():
        if added["id"] == token_id:
            return added["content"]
    entries = description["model"]["vocab"]
    if isinstance(entries, list):  # Unigram: pairs of piece and score
        return entries[token_id][0]
    return next(name for name, number in entries.items() if number == token_id)


def _description(model: dict[str, Any], **parts: Any) -> dict[str, Any]:
    empty = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {"version": "1.0", **dict.fromkeys(empty), "added_tokens": [], **parts, "model": model}


def _added(token_id: int, content: str, *, special: bool) -> dict[str, Any]:
    sides = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    others = {"normalized": not special, "special": special}
    return {"id": token_id, "content": content, **sides, **others}


def _bpe(vocab: dict[str, int], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    return {"type": "BPE", "vocab": vocab, "merges": merges, **options}


def _of_bytes() -> dict[str, Any]:
    names = ("<pad>", "</s>", "<unk>")  # those of ByT5
    vocab = {name: number for number, name in enumerate(names)}
    vocab |= {char: byte + len(names) for char, byte in byte_characters().items()}
    return _description(
        _bpe(vocab, []),
        added_tokens=[_added(i, name, special=True) for i, name in enumerate(names)],
        pre_tokenizer={**_BYTE_LEVEL, "use_regex": False},
        decoder={**_BYTE_LEVEL, "use_regex": False},
    )


def _of_ranks(spec: Tiktoken, vocabulary: Vocabulary) -> dict[str, Any]:
    from lossline.vocabularies.tiktoken import PATTERNS, ranks_of

    ranks = ranks_of(spec.path)
    character = {byte: char for char, byte in byte_characters().items()}

    def written(piece: bytes) -> str:
        return "".join(map(character.__getitem__, piece))

    vocab = {written(piece): rank for piece, rank in ranks.items()}
    vocab[spec.eos_token] = vocabulary.eos_id
    ordered = sorted((rank, piece) for piece, rank in ranks.items() if len(piece) > 1)
    merges = [list(map(written, _halves(piece, ranks))) for _, piece in ordered]
    # This library reads "{1,3}+" as a repetition, and "$" as the end of any line.
    pattern = PATTERNS.get(spec.pattern, spec.pattern).replace("}+", "}").replace("$", r"\z")
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    steps = [{**split, "invert": False}, {**_BYTE_LEVEL, "use_regex": False}]
    return _description(
        _bpe(vocab, [pair for pair in merges if pair], ignore_merges=True),
        added_tokens=[_added(vocabulary.eos_id, spec.eos_token, special=True)],
        pre_tokenizer={"type": "Sequence", "pretokenizers": steps},
        decoder={**_BYTE_LEVEL, "use_regex": False},
    )


def _halves(piece: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """Return the two tokens that are merged into a token; none if merges do not lead to it."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks) + ranks[piece]) for a, b in pairwise(parts)]
        best = min(joined)
        if best >= ranks[piece]:
            return []
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _of_sentencepiece(spec: SentencePiece) -> dict[str, Any]:
    from lossline.vocabularies.sentencepiece import exact_model, parsed

    proto = parsed(exact_model(spec))
    pieces = list(proto.pieces)
    added = [
        _added(i, piece.piece, special=piece.type != _USER_DEFINED)
        for i, piece in enumerate(pieces)
        if piece.type in (_UNKNOWN, _CONTROL)
        # A piece with a space matches no text, since the model writes spaces as U+2581.
        or (piece.type == _USER_DEFINED and " " not in piece.piece)
    ]
    unknown = next(i for i, piece in enumerate(pieces) if piece.type == _UNKNOWN)
    if proto.trainer_spec.model_type == proto.trainer_spec.BPE:
        model = _bpe(
            {piece.piece: i for i, piece in enumerate(pieces)},
            _merges({piece.piece: piece.score for piece in pieces if piece.type == _NORMAL}),
            unk_token=pieces[unknown].piece,
            fuse_unk=True,
            byte_fallback=True,
        )
    elif proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        scored = [
            [piece.piece, piece.score if piece.type == _NORMAL else _NEVER] for piece in pieces
        ]
        model = {"type": "Unigram", "unk_id": unknown, "vocab": scored, "byte_fallback": True}
    else:
        raise UserError(f"{spec.path}: only models of type BPE and Unigram have a tokenizer.json")
    apart = None
    if model["type"] == "Unigram":
        # The library lets a text match the names of these pieces if it lacks their characters.
        names = [piece.piece for piece in pieces if piece.type in (_UNKNOWN, _CONTROL)]
        places = [f"(?<={re.escape(name[0])})(?={re.escape(name[1:])})" for name in names]
        pattern = {"Regex": "|".join([*places, "(?<=<)(?=0x[0-9A-F]{2}>)"])}
        apart = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
    space = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
    back = {"type": "Replace", "pattern": {"String": METASPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return _description(
        model,
        added_tokens=added,
        normalizer=space,
        pre_tokenizer=apart,
        decoder={"type": "Sequence", "decoders": decoders},
    )


def _merges(scores: Mapping[str, float]) -> list[list[str]]:
    """Return the merges of a SentencePiece BPE: the best piece first."""
    merges: list[list[str]] = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        halves = ([piece[:i], piece[i:]] for i in range(1, len(piece)))
        merges += [pair for pair in halves if pair[0] in scores and pair[1] in scores]
    return merges


def _check(description: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Raise a UserError if a text has other ids than in the vocabulary."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(json.dumps(description))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"vocabulary {vocabulary.name} has no tokenizer.json: the tokenizers library cannot "
            f"read it ({error}). Write the folder without one: convert.vocabulary = 'none'"
        ) from error
    tokenizer.encode_special_tokens = True
    for text in _texts(description):
        found = tokenizer.encode(text, add_special_tokens=False).ids
        if found != vocabulary.encode(text).tolist():
            raise UserError(
                f"vocabulary {vocabulary.name} has no tokenizer.json: the tokenizers library would "
                f"split {text[:40]!r} into other tokens. Write the folder without one: "
                "convert.vocabulary = 'none'"
            )


def _texts(description: Mapping[str, Any]) -> Iterable[str]:
    names = (added["content"].replace(METASPACE, " ") for added in description["added_tokens"])
    added = [f"a  {name}  b{name}c" for name in names]
    known = [*round_trip_probes(), *HARD_TO_SPLIT]
    return [*(text.replace(METASPACE, "") for text in known), *added]
