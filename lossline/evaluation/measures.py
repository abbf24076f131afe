"""A store made ready to be measured: which tokens are scored, and what sums their nats become.

``DocumentLoss`` measures running text, ``AnswerLoss`` a benchmark's gold answers,
``ChoiceAccuracy`` all answers of a benchmark (the gold ones included, so that it yields
``AnswerLoss``'s sums too). Each is built once per vocabulary and context, and serves every
checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lossline.errors import UserError
from lossline.evaluation.definitions import Sums, answer
from lossline.evaluation.packing import PackedTexts, RowLayout
from lossline.evaluation.windows import WindowRule, answer_windows, document_windows

if TYPE_CHECKING:
    from lossline.stores.task_store import TaskStore
    from lossline.stores.token_store import TokenStore


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Shape of the batches: ``batch_size`` rows of a context each, in ``groups``."""

    batch_size: int
    groups: int = 1
    rows: RowLayout = RowLayout.PACKED


class Measure(Protocol):
    """What the evaluator asks of a prepared set."""

    texts: PackedTexts

    def sums(self, nats: np.ndarray) -> Sums:
        """The set's sums, out of the nats of each of ``texts`` (float64)."""
        ...


class DocumentLoss:
    """Every token of every document of a token store.

    Raises:
        UserError: the store holds no text.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        rule: WindowRule,
        layout: Layout,
        max_documents: int | None = None,
    ) -> None:
        count = min(store.num_documents, max_documents or store.num_documents)
        documents = [(i, tokens) for i, tokens in enumerate(_texts(store, count)) if len(tokens)]
        if not documents:
            raise UserError(
                f"evaluation set {store.manifest.name} has no text to score ({store.num_documents} "
                "documents): prepare a set "
                "with at least one document that is not empty"
            )
        windows = [document_windows(len(tokens), rule) for _, tokens in documents]
        self._lengths = np.array([ws[-1].stop for ws in windows], np.int64)
        whole = np.array([len(tokens) for _, tokens in documents], np.int64)
        self._truncated = int((self._lengths < whole).sum())
        self._bytes = sum(
            _covered_bytes(store, i, tokens, int(length))
            for (i, tokens), length in zip(documents, self._lengths, strict=True)
        )
        self.texts = _packed([tokens for _, tokens in documents], windows, store, rule, layout)

    def sums(self, nats: np.ndarray) -> Sums:
        return Sums(
            nats=float(nats.sum()),
            target_tokens=int(self._lengths.sum()),
            target_bytes=self._bytes,
            documents=len(nats),
            truncated=self._truncated,
            document_losses=float((nats / self._lengths).sum()),
        )


class AnswerLoss:
    """The gold answer of every question of a benchmark, after its question.

    Raises:
        UserError: the store holds no question.
    """

    def __init__(
        self,
        store: TaskStore,
        *,
        rule: WindowRule,
        layout: Layout,
        max_documents: int | None = None,
    ) -> None:
        self._answers = _Answers(store, max_documents, gold_only=True)
        self.texts = self._answers.packed(rule, layout)

    def sums(self, nats: np.ndarray) -> Sums:
        return self._answers.gold_sums(nats)


class ChoiceAccuracy:
    """All answers of every question: the gold answers' sums, and how often the gold answer is the
    model's choice.
    """

    def __init__(
        self,
        store: TaskStore,
        *,
        rule: WindowRule,
        layout: Layout,
        max_documents: int | None = None,
    ) -> None:
        self._answers = _Answers(store, max_documents, gold_only=False)
        self.texts = self._answers.packed(rule, layout)

    def sums(self, nats: np.ndarray) -> Sums:
        return self._answers.gold_sums(nats, with_accuracy=True)


class _Answers:
    """Answers of a benchmark as texts: the question's tokens, then the answer's."""

    def __init__(self, store: TaskStore, max_questions: int | None, *, gold_only: bool) -> None:
        self._store = store
        count = min(store.num_questions, max_questions or store.num_questions)
        if count == 0:
            raise UserError(
                f"evaluation set {store.manifest.name} has no questions: prepare a benchmark with "
                "at least one"
            )
        texts, scored, sizes, question, gold = [], [], [], [], []
        for number in range(count):
            item = store.question(number)
            for choice, tokens in enumerate(item.choices):
                if gold_only and choice != item.gold:
                    continue
                if not len(tokens):
                    raise UserError(
                        f"evaluation set {store.manifest.name}: answer {choice} of question "
                        f"{number} is empty; leave the "
                        "question out when preparing the benchmark"
                    )
                texts.append(np.concatenate([item.context, tokens]).astype(np.int32))
                scored.append(len(item.context))
                sizes.append(item.choice_bytes[choice])
                question.append(number)
                gold.append(choice == item.gold)
        self._texts, self._count = texts, count
        self._scored = np.array(scored, np.int64)
        self._tokens = np.array([len(text) for text in texts], np.int64) - self._scored
        self._bytes = np.array(sizes, np.int64)
        self._question = np.array(question, np.int64)
        self._gold = np.array(gold, bool)
        self._cut = np.zeros(len(texts), bool)

    def packed(self, rule: WindowRule, layout: Layout) -> PackedTexts:
        windows = [
            answer_windows(len(text), int(scored), rule)
            for text, scored in zip(self._texts, self._scored, strict=True)
        ]
        self._cut = np.array([ws[0].start > 0 for ws in windows])
        return _packed(self._texts, windows, self._store, rule, layout)

    def gold_sums(self, nats: np.ndarray, *, with_accuracy: bool = False) -> Sums:
        gold = self._gold
        tokens = self._tokens[gold]
        correct = [
            self._correct(nats / per) if with_accuracy else None
            for per in (1, self._tokens, self._bytes)
        ]
        return Sums(
            nats=float(nats[gold].sum()),
            target_tokens=int(tokens.sum()),
            target_bytes=int(self._bytes[gold].sum()),
            documents=self._count,
            truncated=int(self._cut[gold].sum()),
            questions=self._count,
            correct=correct[0],
            correct_per_token=correct[1],
            correct_per_byte=correct[2],
            document_losses=float((nats[gold] / tokens).sum()),
        )

    def _correct(self, scores: np.ndarray) -> int:
        """Questions whose gold answer has the smallest score."""
        bounds = np.flatnonzero(np.diff(self._question)) + 1
        return sum(
            bool(gold[answer(scores)])
            for scores, gold in zip(
                np.split(scores, bounds), np.split(self._gold, bounds), strict=True
            )
        )


def _texts(store: TokenStore, count: int) -> list[np.ndarray]:
    """The first documents' tokens, each without the end-of-document id that closes it."""
    offsets = store.offsets[: count + 1]
    tokens = store.read(0, int(offsets[-1])) if count else np.zeros(0, np.int32)
    return [tokens[a : b - 1] for a, b in pairwise(offsets)]


def _covered_bytes(store: TokenStore, index: int, tokens: np.ndarray, scored: int) -> int:
    """UTF-8 bytes of the document that its first ``scored`` tokens cover.

    For a whole document the store's own count, which no vocabulary can distort; for a part the
    bytes that its tokens stand for, never more than the document has (a SentencePiece vocabulary
    may put a space before the first word).
    """
    whole = int(store.document_bytes[index])
    if scored == len(tokens):
        return whole
    return min(whole, int(store.token_bytes[tokens[:scored]].astype(np.int64).sum()))


def _packed(texts, windows, store, rule: WindowRule, layout: Layout) -> PackedTexts:
    return PackedTexts(
        texts,
        windows,
        opening_id=store.manifest.vocabulary.eos_id,
        row_length=rule.context,
        batch_size=layout.batch_size,
        groups=layout.groups,
        layout=layout.rows,
    )
