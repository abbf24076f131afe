"""Evaluation sets: named in a gin file, opened for one run's vocabulary and context."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.evaluation.measures import AnswerLoss, ChoiceAccuracy, DocumentLoss, Layout, Measure
from lossline.evaluation.windows import LongDocuments, WindowRule
from lossline.stores.task_store import TaskStore
from lossline.stores.token_store import TokenStore
from lossline.tables.schema import SetKind


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """One set that every checkpoint is measured on.

    Attributes:
        name: ``eval_set`` in the loss table.
        path: the store's folder. ``{tokenizer}`` and any other column of the run's facts are filled
            in, ``{name}`` is this set's name, so that one set serves runs of several vocabularies:
            "data/stores/{tokenizer}/{name}-validation".
        kind: a token store's running text ("validation"), or a benchmark's answers ("task").
        long_documents: how documents longer than the context are scored; None: as the other sets.
        max_documents: only the first so many documents or questions; None: all. The same ones for
        every vocabulary.
    """

    name: str
    path: str
    kind: SetKind = SetKind.VALIDATION
    long_documents: LongDocuments | None = None
    max_documents: int | None = None

    def __post_init__(self) -> None:
        if self.max_documents is not None and self.max_documents < 1:
            raise UserError(
                f"evaluation set {self.name}: max_documents is {self.max_documents}, it must be at "
                "least 1"
            )

    def path_for(self, facts: Mapping[str, Any]) -> Path:
        """Where the store for a run's vocabulary lies.

        Raises:
            UserError: the path names a fact that the run does not have.
        """
        known = {**facts, "name": self.name}
        for _, field, _, _ in string.Formatter().parse(self.path):
            if field is not None and known.get(field) is None:
                raise UserError(
                    f"evaluation set {self.name}: path {self.path} names {{{field}}}, which run "
                    f"{facts.get('run_id')} does not "
                    "have; {tokenizer} and {name} are what one usually needs"
                )
        return Path(self.path.format(**known))


class SetLibrary:
    """Opens stores and prepares measures once, however many runs and checkpoints use them."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._stores: dict[Path, TokenStore | TaskStore] = {}
        self._measures: dict[tuple[object, ...], Measure] = {}

    def store(
        self, evaluation_set: EvaluationSet, facts: Mapping[str, Any]
    ) -> TokenStore | TaskStore:
        """The set's store for a run.

        Raises:
            UserError: absent, damaged, or made with another vocabulary than the run's.
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
                f"{theirs.name} ({theirs.hash[:8]}), "
                f"run {facts['run_id']} with {facts['tokenizer']} ({ours[:8]}); prepare the set "
                "with the run's vocabulary, or name "
                "stores by {tokenizer} in the set's path"
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
        """The prepared set.

        Raises:
            UserError: as ``store``; or the set is empty.
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
