"""Vocabularies from SentencePiece models."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.vocabularies.library_vocabulary import LibraryVocabulary
from lossline.vocabularies.specs import Normalization, SentencePiece, default_name, drop_remedy
from lossline.vocabularies.tokenizer_words import words_of_pieces
from lossline.vocabularies.vocabulary import METASPACE
from lossline.vocabularies.word_memory import Split

_WITHOUT_TEXT = (2, 3, 6)  # ModelProto.SentencePiece.Type: unknown, control, byte


class SentencePieceVocabulary(LibraryVocabulary):
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
        model = exact_model(spec)
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
        self._keep_words(_split_of(model))

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        plain = [text for text in texts if METASPACE not in text]
        # One thread: the processes of ``prepare`` use all cores already.
        encoded = iter(self._processor.encode(plain, num_threads=1) if plain else [])
        return [
            self._encode_around_metaspace(text) if METASPACE in text else next(encoded)
            for text in texts
        ]

    def _is_encoded_apart(self, text: str) -> bool:
        return METASPACE in text

    def remedy(self) -> str:
        """Return how to make the vocabulary lossless, as a sentence of an error message."""
        return drop_remedy(self._spec, type(self)) or super().remedy()

    def _encode_around_metaspace(self, text: str) -> list[int]:
        first, *others = text.split(METASPACE)
        ids = list(self._processor.encode(first))
        for other in others:
            ids += self._metaspace_ids + self._processor.encode(other)
        return ids


def exact_model(spec: SentencePiece) -> bytes:
    """Return the content of a model, without its normalization if the options drop it.

    Raises:
        UserError: the file is not a SentencePiece model.
    """
    model = Path(spec.path).read_bytes()
    if spec.normalization is Normalization.DROP:
        return _without_normalization(model, spec.path)
    return model


def parsed(model: bytes) -> Any:
    """Return a model as its message, with pieces and options.

    Raises:
        ImportError: the package protobuf is missing.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = vars(sentencepiece_model_pb2)["ModelProto"]()
    proto.ParseFromString(model)
    return proto


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


def _split_of(model: bytes) -> Split | str:
    """Return how a model cuts a text into words, or the reason why that is not known.

    A Unigram model adds the scores of the whole text in single precision, so the words before can
    decide between two segmentations of almost equal score.
    """
    try:
        proto = parsed(model)
    except ImportError as error:  # it needs protobuf
        return f"the model cannot be read ({error})"
    normalizer = proto.normalizer_spec
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        return "its model adds scores over the whole text"
    if (
        normalizer.precompiled_charsmap
        or normalizer.add_dummy_prefix
        or normalizer.remove_extra_whitespaces
        or not normalizer.escape_whitespaces
        or proto.trainer_spec.treat_whitespace_as_suffix
    ):
        return "its normalization depends on the whole text"
    return words_of_pieces(piece.piece for piece in proto.pieces if piece.type not in _WITHOUT_TEXT)


def _without_normalization(model: bytes, path: str) -> bytes:
    from google.protobuf.message import DecodeError

    try:
        proto = parsed(model)
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
