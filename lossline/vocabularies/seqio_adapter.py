"""Adapter that lets seqio Tasks tokenize with lossline vocabularies. Imports TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import seqio
import tensorflow as tf

from lossline import vocabularies
from lossline.vocabularies.specs import VocabularySpec
from lossline.vocabularies.vocabulary import Vocabulary


class SeqioVocabulary(seqio.Vocabulary):
    """A lossline vocabulary behind seqio's ``Vocabulary`` interface.

    Args:
        vocabulary: a vocabulary, its specification, or a string that ``vocabularies.load`` accepts.
    """

    def __init__(self, vocabulary: Vocabulary | VocabularySpec | str) -> None:
        super().__init__(extra_ids=0)
        self.exact = (
            vocabulary if isinstance(vocabulary, Vocabulary) else vocabularies.load(vocabulary)
        )

    @property
    def bos_id(self) -> None:
        """None: lossline vocabularies have no bos token."""
        return None

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document."""
        return self.exact.eos_id

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self.exact.pad_id

    @property
    def unk_id(self) -> None:
        """None: lossline vocabularies encode every text, so they need no unknown token."""
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self.exact.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.exact.encode(s).tolist()

    def _decode(self, ids: Sequence[int]) -> str:
        return self.exact.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: bytes | np.ndarray) -> np.ndarray:
            data = text if isinstance(text, bytes) else text.item()  # eager tensors are arrays
            return self.exact.encode(data.decode())

        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(array: np.ndarray) -> np.ndarray:
            rows = array.reshape(-1, array.shape[-1])
            texts = [self.exact.decode_bytes(row) for row in rows]
            return np.array(texts, object).reshape(array.shape[:-1])

        text = tf.numpy_function(decode, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqioVocabulary) and other.exact.hash == self.exact.hash

    def __hash__(self) -> int:
        return hash(self.exact.hash)
