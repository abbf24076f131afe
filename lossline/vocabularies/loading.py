"""Load a vocabulary from its specification.

Tokenizer packages are imported only when a vocabulary needs them.
"""

from __future__ import annotations

from pathlib import Path

from lossline.errors import UserError
from lossline.vocabularies.specs import Bytes, HuggingFace, SentencePiece, VocabularySpec, spec_for
from lossline.vocabularies.vocabulary import ByteVocabulary, Vocabulary


def load(spec: VocabularySpec | str) -> Vocabulary:
    """Load a vocabulary.

    Args:
        spec: a specification, or a string that ``spec_for`` accepts ("bytes", a path).

    Raises:
        UserError: the file does not exist or has another format, or the vocabulary changes text.
    """
    if isinstance(spec, str):
        spec = spec_for(spec)
    if isinstance(spec, Bytes):
        return ByteVocabulary(name=spec.name)
    if not Path(spec.path).is_file():
        raise UserError(
            f"vocabulary: no file {spec.path}. Correct the path, or train a vocabulary with "
            "python -m lossline.prepare --train_vocabulary."
        )
    if isinstance(spec, SentencePiece):
        from lossline.vocabularies.sentencepiece import SentencePieceVocabulary

        return SentencePieceVocabulary(spec)
    if isinstance(spec, HuggingFace):
        from lossline.vocabularies.huggingface import HuggingFaceVocabulary

        return HuggingFaceVocabulary(spec)
    from lossline.vocabularies.tiktoken import TiktokenVocabulary

    return TiktokenVocabulary(spec)
