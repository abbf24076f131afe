"""What every metric means. The one place: nothing else in the package divides nats by anything.

An evaluator returns **sums**; they add over documents, batches, shards and sets, and are divided
once, at the end.

``nats``: sum over scored tokens of -ln p(token | everything before it in its window).
``target_tokens``: number of scored tokens.
``target_bytes``: UTF-8 bytes of the original text that the scored tokens cover, in any vocabulary.
``documents``: documents (questions, for a benchmark) that the sums cover.
``truncated``: of these, how many lost something: the text behind the window (rule "truncate"), or
the beginning of a question's context that does not fit before its answer.
``questions``: benchmark only: questions asked.
``correct``: benchmark only: questions whose gold answer has the smallest total nats; None where
only the gold answers were scored.

Which tokens are scored: every token of the text, the first one included (it is predicted from the
end-of-document token, which opens each document); the end-of-document token itself is never scored,
because it stands for no byte of text. Of a benchmark's question the tokens of the answer are scored
and those of the context are not.

``bits_per_byte`` of one text is thereby comparable between vocabularies: numerator and denominator
both cover exactly the text, nothing else. (A token-weighted mean of per-batch ratios, or a fixed
number of bytes per token, is not.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Sums:
    """What an evaluation of one set returns; see the module's docstring. Adds with ``+``.

    ``correct_per_token`` and ``correct_per_byte`` are ``correct`` with each answer's nats divided
    by its tokens or bytes before they are compared. ``document_losses`` is the sum over documents
    of nats per token: divided by ``documents`` it is the mean of means that "LLMs on the Line"
    (arXiv 2502.12120) reports, kept for comparison with published numbers only.
    """

    nats: float
    target_tokens: int
    target_bytes: int
    documents: int
    truncated: int = 0
    questions: int | None = None
    correct: int | None = None
    correct_per_token: int | None = None
    correct_per_byte: int | None = None
    document_losses: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        added = {f.name: _add(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return replace(self, **added)

    @property
    def loss(self) -> float:
        """Nats per scored token."""
        return loss(self.nats, self.target_tokens)

    @property
    def bits_per_byte(self) -> float:
        """Bits per UTF-8 byte of the scored text."""
        return bits_per_byte(self.nats, self.target_bytes)

    @property
    def accuracy(self) -> float | None:
        """Share of questions answered correctly; None where wrong answers were not scored."""
        if self.correct is None or self.questions is None:
            return None
        return accuracy(self.correct, self.questions)


def loss(nats: float, target_tokens: float) -> float:
    """Nats per token. ValueError where nothing was scored: an empty set has no loss of zero."""
    return nats / _positive(target_tokens, "target_tokens")


def bits_per_byte(nats: float, target_bytes: float) -> float:
    """Bits per UTF-8 byte of the original text that the scored tokens cover."""
    return nats / math.log(2.0) / _positive(target_bytes, "target_bytes")


def accuracy(correct: float, questions: float) -> float:
    """Share of correct answers."""
    return correct / _positive(questions, "questions")


def answer(nats_per_choice: Sequence[float] | np.ndarray) -> int:
    """The choice that the model prefers: the smallest nats, the first of equals (deterministic)."""
    return int(np.argmin(np.asarray(nats_per_choice, np.float64)))


def _positive(count: float, name: str) -> float:
    if not count > 0:
        raise ValueError(f"{name} must be positive, not {count}: nothing was scored")
    return count


def _add(a: Any, b: Any) -> Any:
    """None (not measured) plus anything is None: part of a sum would pass for the whole."""
    return None if a is None or b is None else a + b
