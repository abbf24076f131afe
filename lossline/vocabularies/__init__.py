"""Lossless vocabularies: bytes, SentencePiece, Hugging Face and tiktoken.

Every vocabulary restores the exact text from its token ids::

    vocabulary = load("tokenizer.json")
    assert vocabulary.decode(vocabulary.encode(text)) == text
"""

from lossline.vocabularies.loading import load
from lossline.vocabularies.specs import (
    Bytes,
    HuggingFace,
    Normalization,
    SentencePiece,
    Tiktoken,
    VocabularySpec,
    spec_for,
)
from lossline.vocabularies.vocabulary import (
    METASPACE,
    ByteVocabulary,
    Encoded,
    Vocabulary,
    VocabularyFacts,
    round_trip_probes,
)

__all__ = [
    "METASPACE",
    "ByteVocabulary",
    "Bytes",
    "Encoded",
    "HuggingFace",
    "Normalization",
    "SentencePiece",
    "Tiktoken",
    "Vocabulary",
    "VocabularyFacts",
    "VocabularySpec",
    "load",
    "round_trip_probes",
    "spec_for",
]
