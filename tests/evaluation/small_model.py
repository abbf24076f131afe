"""Stores in memory, and a model small enough to implement a second time in NumPy."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

EOS = 1
VOCAB = 40


@dataclass
class MemoryStore:
    """The parts of a token store that evaluation uses, for documents given as arrays of tokens."""

    documents: list[np.ndarray]
    document_bytes: np.ndarray
    token_bytes: np.ndarray
    name: str = "memory"
    manifest: SimpleNamespace = field(init=False)

    def __post_init__(self):
        vocabulary = SimpleNamespace(eos_id=EOS, hash="h" * 64, name="memory")
        self.manifest = SimpleNamespace(name=self.name, fingerprint="f", vocabulary=vocabulary)
        self._tokens = np.concatenate([[*d, EOS] for d in self.documents] or [[]]).astype(np.int32)
        self.offsets = np.cumsum([0, *(len(d) + 1 for d in self.documents)])
        self.document_bytes = np.asarray(self.document_bytes, np.int64)

    @property
    def num_documents(self):
        return len(self.documents)

    def read(self, start, stop):
        return self._tokens[start:stop]


@dataclass
class MemoryTask:
    """The parts of a task store that evaluation uses."""

    questions: list[SimpleNamespace]

    def __post_init__(self):
        vocabulary = SimpleNamespace(eos_id=EOS, hash="h" * 64, name="memory")
        self.manifest = SimpleNamespace(name="memory", fingerprint="f", vocabulary=vocabulary)

    @property
    def num_questions(self):
        return len(self.questions)

    def question(self, index):
        return self.questions[index]


def random_store(lengths, *, seed=0):
    """Return documents of random tokens; each token represents 1 to 4 bytes."""
    rng = np.random.default_rng(seed)
    token_bytes = rng.integers(1, 5, VOCAB).astype(np.int32)
    token_bytes[:2] = 0
    documents = [rng.integers(2, VOCAB, n).astype(np.int32) for n in lengths]
    sizes = [int(token_bytes[d].sum()) for d in documents]
    return MemoryStore(documents, sizes, token_bytes)


def random_task(contexts, answers, *, seed=0):
    """Return one question per context length, with answers of the given lengths."""
    rng = np.random.default_rng(seed)
    return MemoryTask(
        [
            SimpleNamespace(
                context=rng.integers(2, VOCAB, n).astype(np.int32),
                choices=[rng.integers(2, VOCAB, m).astype(np.int32) for m in answers],
                choice_bytes=[3 * m + 1 for m in answers],
                gold=int(rng.integers(len(answers))),
            )
            for n in contexts
        ]
    )


@dataclass(frozen=True)
class SmallConfig:
    vocab_size: int = VOCAB
    activation_dtype: str = "float32"


class SmallModel(nnx.Module):
    """A model whose hidden state is easy to compute.

    It is a decaying sum of the previous embeddings in the segment, plus the embedding of the
    position.
    """

    def __init__(self, *, width=8, positions=64, seed=0):
        keys = jax.random.split(jax.random.key(seed), 3)
        self.embedding = nnx.Param(jax.random.normal(keys[0], (VOCAB, width)))
        self.position = nnx.Param(jax.random.normal(keys[1], (positions, width)))
        self.out = nnx.Param(jax.random.normal(keys[2], (width, VOCAB)))
        self.config = SmallConfig()

    def hidden(self, tokens_BxL, segment_ids_BxL=None, positions_BxL=None):
        x = self.embedding[...][tokens_BxL]
        i = jnp.arange(tokens_BxL.shape[1])
        weight = jnp.where(i[:, None] >= i[None], 0.8 ** (i[:, None] - i[None]), 0.0)
        same = segment_ids_BxL[:, :, None] == segment_ids_BxL[:, None, :]
        mixed = jnp.einsum("blm,bmd->bld", jnp.where(same, weight, 0.0), x)
        return jnp.tanh(mixed + self.position[...][positions_BxL])

    def unembedding(self):
        return self.out[...]


def reference_nats(model, inputs):
    """Return -log p of every next token after a single unpacked sequence, [L, V].

    Computed in float64 NumPy, one position at a time.
    """
    embedding, position, out = (
        np.asarray(p[...], np.float64) for p in (model.embedding, model.position, model.out)
    )
    state, rows = np.zeros(embedding.shape[1]), []
    for i, token in enumerate(inputs):
        state = 0.8 * state + embedding[token]
        logits = np.tanh(state + position[i]) @ out
        rows.append(np.log(np.sum(np.exp(logits - logits.max()))) + logits.max() - logits)
    return np.array(rows)
