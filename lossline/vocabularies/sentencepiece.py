"""Vocabularies from SentencePiece models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.vocabularies.specs import Normalization, SentencePiece, default_name, drop_remedy
from lossline.vocabularies.vocabulary import METASPACE, Vocabulary


class SentencePieceVocabulary(Vocabulary):
    """Vocabulary from a SentencePiece model with identity normalization and byte fallback.

    SentencePiece writes a space as U+2581, so it would decode a U+2581 of the text as a space.
    This class encodes U+2581 as its three byte pieces instead.

    Args:
        spec: path of the model and options.

    Raises:
        UserError: the file is not a SentencePiece model, has no eos piece, or changes text.
    """

    def __init__(self, spec: SentencePiece) -> None:
        self._spec = spec
        model = Path(spec.path).read_bytes()
        if spec.normalization is Normalization.DROP:
            model = _without_normalization(model, spec.path)
        self._processor = _load(model, spec.path)
        processor = self._processor
        pieces = [_piece_bytes(processor, i) for i in range(processor.get_piece_size())]
        byte_ids = {pieces[i]: i for i in range(len(pieces)) if processor.is_byte(i)}
        self._metaspace_ids = [
            byte_ids.get(bytes([b]), processor.unk_id()) for b in METASPACE.encode()
        ]
        name = spec.name or default_name(spec.path)
        eos = processor.piece_to_id(spec.eos_token) if spec.eos_token else processor.eos_id()
        if eos < 0 or (spec.eos_token and eos == processor.unk_id()):
            raise UserError(
                f"vocabulary {name}: {spec.path} has no eos piece {spec.eos_token!r}. Set "
                "sentencepiece.eos_token."
            )
        super().__init__(
            name=name,
            kind="sentencepiece",
            pieces=pieces,
            eos_id=eos,
            pad_id=processor.pad_id() if processor.pad_id() >= 0 else eos,
            content=hashlib.sha256(model).hexdigest(),
        )

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the token ids of each text; see ``Vocabulary.encode_batch``."""
        plain = [text for text in texts if METASPACE not in text]
        encoded = iter(self._processor.encode(plain) if plain else [])
        return [
            np.array(
                self._encode_around_metaspace(text) if METASPACE in text else next(encoded),
                np.int32,
            )
            for text in texts
        ]

    def remedy(self) -> str:
        """Return how to make the vocabulary lossless, as a sentence of an error message."""
        return drop_remedy(self._spec, type(self)) or super().remedy()

    def _encode_around_metaspace(self, text: str) -> list[int]:
        first, *others = text.split(METASPACE)
        ids = list(self._processor.encode(first))
        for other in others:
            ids += self._metaspace_ids + self._processor.encode(other)
        return ids


def _load(model: bytes, path: str) -> Any:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"SentencePiece vocabularies need the package sentencepiece; {install_extra('data')}"
        ) from error
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"vocabulary: {path} is not a SentencePiece model. Give a .model file."
        ) from error


def _piece_bytes(processor: Any, token_id: int) -> bytes:
    if (
        processor.is_control(token_id)
        or processor.is_unknown(token_id)
        or processor.is_unused(token_id)
    ):
        return b""
    piece = processor.id_to_piece(token_id)
    if processor.is_byte(token_id):
        return bytes.fromhex(piece[3:5])  # <0x41>
    return piece.replace(METASPACE, " ").encode()


def _without_normalization(model: bytes, path: str) -> bytes:
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise UserError(
            f"vocabulary: {path} is not a SentencePiece model. Give a .model file."
        ) from error
    normalizer = proto.normalizer_spec
    normalizer.name = "identity"
    normalizer.precompiled_charsmap = b""
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    return proto.SerializeToString(deterministic=True)
