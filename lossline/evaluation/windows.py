"""Windows: parts of a text that fit a model's context, with each token scored exactly once.

A text of n tokens becomes ``inputs = [end-of-document] + tokens[:-1]`` and ``targets = tokens``:
position i predicts token i. The end-of-document token in front makes the first token a target too.
A ``Window`` is a range of these positions.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lossline.errors import UserError


class LongDocuments(enum.Enum):
    """Rule for a document that is longer than the context.

    SLIDE: windows of the full context. Each window after the first moves forward by ``stride``
    tokens and scores only tokens that are not scored yet, with at least ``context - stride`` tokens
    before them (arXiv:2404.09937 uses 1900 and 512). The last window ends at the document's end.

    TRUNCATE: only the first ``context`` tokens; the document counts as truncated.
    """

    SLIDE = "slide"
    TRUNCATE = "truncate"


@dataclass(frozen=True, kw_only=True)
class WindowRule:
    """Rule that cuts the texts of a set into windows. The loss table records ``str(rule)``."""

    context: int
    stride: int
    long_documents: LongDocuments = LongDocuments.SLIDE

    def __post_init__(self) -> None:
        if self.context < 1:
            raise UserError(f"evaluation context = {self.context}: must be at least 1 token")
        if not 1 <= self.stride <= self.context:
            raise UserError(
                f"evaluation stride = {self.stride}: must be from 1 to the context of "
                f"{self.context} tokens, because a longer stride would skip tokens. Set stride "
                f"= {self.context} or less."
            )

    def __str__(self) -> str:
        if self.long_documents is LongDocuments.TRUNCATE:
            return f"truncate {self.context}"
        return f"slide {self.context} by {self.stride}"


@dataclass(frozen=True)
class Window:
    """Positions ``start`` to ``stop`` go into the model; those from ``scored`` on are scored."""

    start: int
    stop: int
    scored: int


def document_windows(length: int, rule: WindowRule) -> list[Window]:
    """Return the windows of a document of ``length`` tokens.

    All tokens are scored, with the rule TRUNCATE only the first ``context`` tokens.
    """
    if length < 1:
        raise ValueError(f"a document of {length} tokens has no token to score")
    if rule.long_documents is LongDocuments.TRUNCATE:
        return [Window(0, min(length, rule.context), 0)]
    return _slide(length, rule, scored=0, first_stop=min(length, rule.context))


def answer_windows(length: int, scored: int, rule: WindowRule) -> list[Window]:
    """Return the windows of a question with its answer.

    If both do not fit, the beginning of the question is left out, as in the LM evaluation harness,
    so that the answer stays complete. An answer longer than the context is always cut into sliding
    windows, because a truncated answer could not be compared with the others.

    Args:
        length: tokens of question and answer together.
        scored: first token of the answer; the tokens from here on are scored.
        rule: context and stride.
    """
    if not 0 <= scored < length:
        raise ValueError(f"an answer from token {scored} of {length} has no token to score")
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
