"""Prepared evaluation sets: they choose the tokens to score and sum their nats.

``DocumentLoss`` measures running text, ``AnswerLoss`` the gold answers of a benchmark,
``ChoiceAccuracy`` all answers of a benchmark. The last one also yields the sums of ``AnswerLoss``,
because it scores the gold answers too. Each is built once per vocabulary and context and is used
for every checkpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from lossline.errors import UserError
from lossline.evaluation.definitions import Sums, answer
from lossline.evaluation.documents import Documents, Layout, packed
from lossline.evaluation.packing import PackedTexts
from lossline.evaluation.windows import WindowRule, answer_windows

if TYPE_CHECKING:
    from lossline.stores.task_store import TaskStore
    from lossline.stores.token_store import TokenStore


class Measure(Protocol):
    """Interface of a prepared set for the evaluator."""

    texts: PackedTexts

    def sums(self, nats: np.ndarray) -> Sums:
        """Return the sums of the set from the nats of each of ``texts`` (float64)."""
        ...


class DocumentLoss:
    """Every token of every document of a token store.

    Raises:
        UserError: the store contains no text.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        rule: WindowRule,
        layout: Layout,
        max_documents: int | None = None,
    ) -> None:
        self._documents = Documents(store, rule=rule, count=max_documents)
        if not len(self._documents):
            raise UserError(
                f"evaluation set {store.manifest.name} has no text to score ({store.num_documents} "
                "documents). Prepare a set with at least one document that is not empty."
            )
        self.texts = self._documents.packed(layout)

    def sums(self, nats: np.ndarray) -> Sums:
        """Return the sums of the set from the nats of each document (float64)."""
        return self._documents.sums(nats)


class AnswerLoss:
    """The gold answer of every question of a benchmark, given the question.

    Raises:
        UserError: the store contains no question, or an empty answer.
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
        """Return the sums of the gold answers from their nats (float64)."""
        return self._answers.gold_sums(nats)


class ChoiceAccuracy:
    """All answers of every question of a benchmark.

    Gives the sums of the gold answers, and the number of questions whose gold answer is the model's
    choice.

    Raises:
        UserError: the store contains no question, or an empty answer.
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
        """Return sums and numbers of correct answers from the nats of all answers (float64)."""
        return self._answers.gold_sums(nats, with_accuracy=True)


class _Answers:
    """Answers of a benchmark as texts: the tokens of the question, then those of the answer."""

    def __init__(self, store: TaskStore, max_questions: int | None, *, gold_only: bool) -> None:
        self._store = store
        count = min(store.num_questions, max_questions or store.num_questions)
        if count == 0:
            raise UserError(
                f"evaluation set {store.manifest.name} has no questions. Prepare a benchmark with "
                "at least one question."
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
                        f"{number} is empty. Remove the question and prepare the benchmark again."
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
        return packed(self._texts, windows, self._store, rule, layout)

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
        """Return the number of questions whose gold answer has the smallest score."""
        # The answers of a question are consecutive; split where the question number changes.
        bounds = np.flatnonzero(np.diff(self._question)) + 1
        return sum(
            bool(gold[answer(scores)])
            for scores, gold in zip(
                np.split(scores, bounds), np.split(self._gold, bounds), strict=True
            )
        )
