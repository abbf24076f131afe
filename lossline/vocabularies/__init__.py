"""Vocabularies: bytes, SentencePiece, Hugging Face, tiktoken. Text to ids and back, exactly.

vocabulary = load("tokenizer.json")
vocabulary.decode(vocabulary.encode(text)) == text
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
    Vocabulary,
    VocabularyFacts,
    round_trip_probes,
)

__all__ = [
    "METASPACE",
    "ByteVocabulary",
    "Bytes",
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
