"""From a specification to its vocabulary. A tokenizer's package is imported when one is loaded."""

from __future__ import annotations

from pathlib import Path

from lossline.errors import UserError
from lossline.vocabularies.specs import Bytes, HuggingFace, SentencePiece, VocabularySpec, spec_for
from lossline.vocabularies.vocabulary import ByteVocabulary, Vocabulary


def load(spec: VocabularySpec | str) -> Vocabulary:
    """Builds a vocabulary.

    Raises:
        UserError: no such file, not such a file, or a vocabulary that changes text.
    """
    if isinstance(spec, str):
        spec = spec_for(spec)
    if isinstance(spec, Bytes):
        return ByteVocabulary(name=spec.name)
    if not Path(spec.path).is_file():
        raise UserError(
            f"vocabulary: no file {spec.path}; train one with `prepare --train_vocabulary`"
        )
    if isinstance(spec, SentencePiece):
        from lossline.vocabularies.sentencepiece import SentencePieceVocabulary

        return SentencePieceVocabulary(spec)
    if isinstance(spec, HuggingFace):
        from lossline.vocabularies.huggingface import HuggingFaceVocabulary

        return HuggingFaceVocabulary(spec)
    from lossline.vocabularies.tiktoken import TiktokenVocabulary

    return TiktokenVocabulary(spec)
