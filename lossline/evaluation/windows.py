"""Cutting texts into windows that fit a model's context, each token scored exactly once.

A text of n tokens is seen as ``inputs = [end-of-document] + tokens[:-1]`` and ``targets = tokens``:
position i predicts token i, and the end-of-document token in front makes the first token a target
too. A ``Window`` is a range of these positions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lossline.errors import UserError


class LongDocuments(enum.Enum):
    """What to do with a document longer than the context.

    SLIDE: windows of the whole context; each after the first moves on by ``stride`` and scores only
    the tokens not yet scored, with at least ``context - stride`` tokens before them (arXiv
    2404.09937 uses 1900 and 512); the last window ends at the document's end. TRUNCATE: the first
    ``context`` tokens only, and the document counts as truncated.
    """

    SLIDE = "slide"
    TRUNCATE = "truncate"


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """How a set's texts become windows; ``str(rule)`` is what the loss table records."""

    context: int
    stride: int
    long_documents: LongDocuments = LongDocuments.SLIDE

    def __post_init__(self) -> None:
        if self.context < 1:
            raise UserError(f"evaluation context is {self.context}: it must be at least 1 token")
        if not 1 <= self.stride <= self.context:
            raise UserError(
                f"evaluation stride {self.stride} does not lie between 1 and the context of "
                f"{self.context} tokens: a longer stride would skip tokens"
            )

    def __str__(self) -> str:
        if self.long_documents is LongDocuments.TRUNCATE:
            return f"truncate {self.context}"
        return f"slide {self.context} by {self.stride}"


@dataclass(frozen=True)
class Window:
    """Positions ``start`` to ``stop`` go through the model; those from ``scored`` on count."""

    start: int
    stop: int
    scored: int


def document_windows(length: int, rule: WindowRule) -> list[Window]:
    """Windows of a document of ``length`` tokens: all is scored, or the beginning (TRUNCATE)."""
    if length < 1:
        raise ValueError(f"a document of {length} tokens has nothing to score")
    if rule.long_documents is LongDocuments.TRUNCATE:
        return [Window(0, min(length, rule.context), 0)]
    return _slide(length, rule, scored=0, first_stop=min(length, rule.context))


def answer_windows(length: int, scored: int, rule: WindowRule) -> list[Window]:
    """Windows of a question and its answer: ``length`` tokens, of which those from ``scored`` on
    (the answer) are scored.

    What does not fit loses the beginning of the question, as in the LM evaluation harness, so that
    the answer is always whole. An answer longer than the context is slid over, whatever the rule
    for documents: half an answer answers nothing.
    """
    if not 0 <= scored < length:
        raise ValueError(f"an answer from token {scored} of {length} has nothing to score")
    if length - scored <= rule.context:
        return [Window(max(0, length - rule.context), length, scored)]
    first_stop = min(length, max(rule.context, scored + rule.stride))
    return _slide(length, rule, scored=scored, first_stop=first_stop)


def _slide(length: int, rule: WindowRule, *, scored: int, first_stop: int) -> list[Window]:
    windows = []
    stop = first_stop
    while True:
        windows.append(Window(max(0, stop - rule.context), stop, scored))
        if stop == length:
            return windows
        scored, stop = stop, min(length, stop + rule.stride)
