"""Training text of a run: one token store, or a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossline.batches.interleaving import Interleaving
from lossline.batches.mixture import Mixture, described, shares_of_one
from lossline.batches.plans import BatchPlan, MixturePlan, TokenColumn
from lossline.stores.token_store import TokenStore
from lossline.tables.schema import COMPONENT_TOKENS, SHARE
from lossline.vocabularies import VocabularyFacts


@dataclass(frozen=True, kw_only=True)
class TrainingText:
    """The opened stores of ``train.store``.

    Attributes:
        stores: component name -> store. For a single store the name is its location.
        shares: component name -> whole-number share; empty for a single store.
        excluded: components of the mixture with a share of 0. Their stores are not opened.
    """

    stores: Mapping[str, TokenStore]
    shares: Mapping[str, int]
    excluded: tuple[str, ...] = ()

    @classmethod
    def open(cls, source: str | Mixture) -> TrainingText:
        """Open the store, or each component whose share is not 0.

        Raises:
            UserError: a store is missing, damaged or changed.
        """
        if not isinstance(source, Mixture):
            return cls(stores={source: TokenStore.open(source)}, shares={})
        shares = source.whole_shares
        stores = {name: TokenStore.open(source.components[name]) for name in shares}
        excluded = tuple(sorted(name for name in source.shares if name not in shares))
        return cls(stores=stores, shares=shares, excluded=excluded)

    @property
    def vocabulary(self) -> VocabularyFacts:
        """Vocabulary of the stores; ``plan`` refuses components with different ones."""
        return self._first.manifest.vocabulary

    @property
    def location(self) -> str:
        """Location of one store of this vocabulary."""
        return self._first.location

    @property
    def _first(self) -> TokenStore:
        return next(iter(self.stores.values()))

    def plan(
        self,
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        columns: Sequence[TokenColumn] = (),
    ) -> BatchPlan | MixturePlan:
        """Return the plan of the batches.

        Args:
            context_length: targets per row.
            batch_size: rows of the global batch.
            seed: seed of the data order.
            columns: further value of every target, one for each of ``stores``; empty: none.

        Raises:
            UserError: the context is longer than a store, or components have different
                vocabularies.
        """
        if not self.shares:
            return BatchPlan(
                self._first,
                context_length=context_length,
                batch_size=batch_size,
                seed=seed,
                column=columns[0] if columns else None,
            )
        return MixturePlan(
            list(self.stores.values()),
            weights=list(self.shares.values()),
            context_length=context_length,
            batch_size=batch_size,
            seed=seed,
            columns=columns,
        )

    def facts(self, tokens: int) -> dict[str, Any]:
        """Return the facts of the run about its text.

        They are ``pretraining_data``, ``data_selection`` (None if the pages were not selected), and
        for a single store ``store`` and ``epochs``; for a mixture each ``share.<component>`` (0 for
        an excluded one), and ``components`` with the records that ``component_tokens`` reads.

        Args:
            tokens: number of target tokens of the whole run.
        """
        if not self.shares:
            return {
                "pretraining_data": self._first.manifest.name,
                "data_selection": _selection(self._first),
                "store": self.location,
                "epochs": tokens / self._first.num_tokens,
            }
        shares = shares_of_one(self.shares)
        components = {
            name: {
                "store": store.location,
                "store_fingerprint": store.manifest.fingerprint,
                "share": self.shares[name],
                "epochs": tokens * shares[name] / store.num_tokens,
            }
            for name, store in self.stores.items()
        }
        every = shares | dict.fromkeys(self.excluded, 0.0)
        named = {f"{SHARE}{name}": share for name, share in every.items()}
        selections = {
            name: text for name, store in self.stores.items() if (text := _selection(store))
        }
        return {
            "pretraining_data": described(shares),
            "data_selection": ", ".join(f"{name}: {text}" for name, text in selections.items())
            or None,
            **named,
            "components": components,
        }


def _selection(store: TokenStore) -> str | None:
    """Return how the pages of a store were selected ("dsir for code"); None if they were not."""
    found = store.manifest.selection
    if not found:
        return None
    return f"{found['method']} for {found['target']}" if found["target"] else str(found["method"])


def component_tokens(facts: Mapping[str, Any], step: int) -> dict[str, int]:
    """Return the tokens of each mixture component that a run has seen after ``step`` updates.

    Args:
        facts: facts of the run (``facts.json``).
        step: step of a checkpoint.

    Returns:
        ``component_tokens.<component>`` -> tokens, columns of the loss table; 0 for a component
            with a share of 0. Empty for a run on one store.
    """
    components = facts.get("components")
    if not components:
        return {}
    rows = step * facts["tokens_per_step"] // facts["context_length"]
    order = Interleaving(
        [item["share"] for item in components.values()],
        [item["store_fingerprint"] for item in components.values()],
    )
    named = [name.removeprefix(SHARE) for name in facts if name.startswith(SHARE)]
    seen = dict.fromkeys(named, 0) | dict(zip(components, order.counts(rows), strict=True))
    return {
        f"{COMPONENT_TOKENS}{name}": count * facts["context_length"] for name, count in seen.items()
    }
