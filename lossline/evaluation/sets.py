"""Evaluation sets: named in a gin file, opened for the vocabulary and context of one run."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.evaluation.documents import Layout
from lossline.evaluation.measures import AnswerLoss, ChoiceAccuracy, DocumentLoss, Measure
from lossline.evaluation.windows import LongDocuments, WindowRule
from lossline.places import to_path
from lossline.stores.task_store import TaskStore
from lossline.stores.token_store import TokenStore
from lossline.tables.schema import SetKind


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """One set on which every checkpoint is measured.

    Attributes:
        name: ``eval_set`` in the loss table.
        path: folder of the store. ``{tokenizer}`` and other columns of the run's facts are replaced
            by their values, ``{name}`` by this set's name, so that one set serves runs with
            different vocabularies: "data/stores/{tokenizer}/{name}-validation".
        kind: "validation" (running text of a token store) or "task" (answers of a benchmark).
        long_documents: how documents longer than the context are scored. None: as for the other
            sets.
        max_documents: number of documents or questions to use, the first ones of the store, so that
            every vocabulary uses the same ones. None: all.
    """

    name: str
    path: str
    kind: SetKind = SetKind.VALIDATION
    long_documents: LongDocuments | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise UserError(
                f"evaluation set {self.name}: max_documents = {self.max_documents}: must be at "
                "least 1, or None for all"
            )

    def path_for(self, facts: Mapping[str, Any]) -> Path:
        """Return the folder of the store for a run's vocabulary.

        Raises:
            UserError: the path contains a fact that the run does not have.
        """
        known = {**facts, "name": self.name}
        for _, field, _, _ in string.Formatter().parse(self.path):
            if field is not None and known.get(field) is None:
                raise UserError(
                    f"evaluation set {self.name}: path {self.path} contains {{{field}}}, but run "
                    f"{facts.get('run_id')} has no such fact. Use facts of the run, such as "
                    "{tokenizer}, or {name}."
                )
        return to_path(self.path.format(**known))


class SetLibrary:
    """Cache of opened stores and prepared sets, shared by all runs and checkpoints."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stores: dict[Path, TokenStore | TaskStore] = {}
        self._measures: dict[tuple[object, ...], Measure] = {}

    def store(
        self, evaluation_set: EvaluationSet, facts: Mapping[str, Any]
    ) -> TokenStore | TaskStore:
        """Return the set's store for a run.

        Raises:
            UserError: the store is missing, damaged, or has another vocabulary than the run.
        """
        path = evaluation_set.path_for(facts)
        if path not in self._stores:
            kind = TaskStore if evaluation_set.kind is SetKind.TASK else TokenStore
            self._stores[path] = kind.open(path)
        store = self._stores[path]
        theirs, ours = store.manifest.vocabulary, facts["vocabulary_hash"]
        if theirs.hash != ours:
            raise UserError(
                f"evaluation set {evaluation_set.name}: store {path} was made with vocabulary "
                f"{theirs.name} ({theirs.hash[:8]}), but run {facts['run_id']} was trained with "
                f"{facts['tokenizer']} ({ours[:8]}). Prepare the set with the run's vocabulary, or "
                "use {tokenizer} in the set's path."
            )
        return store

    def measure(
        self,
        evaluation_set: EvaluationSet,
        facts: Mapping[str, Any],
        rule: WindowRule,
        *,
        with_accuracy: bool,
    ) -> Measure:
        """Return the prepared set.

        Raises:
            UserError: as for ``store``, or the set is empty.
        """
        store = self.store(evaluation_set, facts)
        limit = evaluation_set.max_documents
        key = (evaluation_set.path_for(facts), limit, rule, with_accuracy)
        if key not in self._measures:
            options: dict[str, Any] = {"rule": rule, "layout": self._layout, "max_documents": limit}
            if isinstance(store, TokenStore):
                self._measures[key] = DocumentLoss(store, **options)
            elif with_accuracy:
                self._measures[key] = ChoiceAccuracy(store, **options)
            else:
                self._measures[key] = AnswerLoss(store, **options)
        return self._measures[key]
