"""Definitions of all metrics. No other module divides nats by a count.

An evaluator returns **sums**. Sums are added over documents, batches, shards and sets, and divided
once, at the end.

- ``nats``: sum over the scored tokens of -ln p(token | the tokens before it in its window).
- ``target_tokens``: number of scored tokens.
- ``target_bytes``: UTF-8 bytes of the original text that the scored tokens cover; the same count
  for every vocabulary.
- ``documents``: number of documents (for a benchmark: questions) in the sums.
- ``truncated``: number of documents with a part left out: the text after the window (rule
  "truncate"), or the beginning of a question that does not fit before its answer.
- ``questions``: benchmarks only: number of questions.
- ``correct``: benchmarks only: number of questions whose gold answer has the smallest total nats;
  None if only the gold answers were scored.

Every token of a document is scored, also the first one, which is predicted from the end-of-document
token that opens each document. The end-of-document token itself is never scored, because it covers
no byte of text. For a benchmark question, only the tokens of the answer are scored.

So numerator and denominator of ``bits_per_byte`` cover exactly the same text, and the metric can be
compared between vocabularies. (A token-weighted mean of per-batch ratios, or a fixed number of
bytes per token, would not be comparable.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Sums of one evaluation set; see the module's docstring. Add them with ``+``.

    Attributes:
        nats: sum of the nats of the scored tokens.
        target_tokens: number of scored tokens.
        target_bytes: UTF-8 bytes covered by the scored tokens.
        documents: number of documents or questions.
        truncated: number of documents or questions with a part left out.
        questions: number of questions; None for running text.
        correct: number of questions whose gold answer has the smallest nats.
        correct_per_token: as ``correct``, with each answer's nats divided by its tokens.
        correct_per_byte: as ``correct``, with each answer's nats divided by its bytes.
        document_losses: sum over documents of nats per token. Divided by ``documents`` it is the
            mean of means that "LLMs on the Line" (arXiv:2502.12120) reports; only for comparison
            with published numbers.
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
        """Share of questions answered correctly; None if wrong answers were not scored."""
        if self.correct is None or self.questions is None:
            return None
        return accuracy(self.correct, self.questions)


def loss(nats: float, target_tokens: float) -> float:
    """Return nats per token.

    Raises:
        ValueError: nothing was scored. The loss of an empty set is undefined, not 0.
    """
    return nats / _positive(target_tokens, "target_tokens")


def bits_per_byte(nats: float, target_bytes: float) -> float:
    """Return bits per UTF-8 byte of the original text that the scored tokens cover.

    Raises:
        ValueError: nothing was scored.
    """
    return nats / math.log(2.0) / _positive(target_bytes, "target_bytes")


def accuracy(correct: float, questions: float) -> float:
    """Return the share of correct answers.

    Raises:
        ValueError: nothing was scored.
    """
    return correct / _positive(questions, "questions")


def answer(nats_per_choice: Sequence[float] | np.ndarray) -> int:
    """Return the model's choice: the index of the smallest nats, the first of equal ones."""
    return int(np.argmin(np.asarray(nats_per_choice, np.float64)))


def _positive(count: float, name: str) -> float:
    if not count > 0:
        raise ValueError(f"{name} must be positive, not {count}: nothing was scored")
    return count


def _add(a: Any, b: Any) -> Any:
    """Add; None plus anything is None, because a partial sum must not look complete."""
    return None if a is None or b is None else a + b
