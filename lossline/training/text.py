"""The text that a run is trained on: one token store, or a mixture of several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossline.batches.interleaving import Interleaving
from lossline.batches.mixture import Mixture, described, shares_of_one
from lossline.batches.plans import BatchPlan, MixturePlan
from lossline.stores.token_store import TokenStore
from lossline.tables.schema import COMPONENT_TOKENS, SHARE
from lossline.vocabularies import VocabularyFacts


@dataclass(frozen=True, kw_only=True)
class TrainingText:
    """What ``train.store`` names, opened.

    Attributes:
        stores: in the order of the components' names; of one store, its place is the name.
        shares: whole shares of a mixture's components; empty for one store.
    """

    stores: Mapping[str, TokenStore]
    shares: Mapping[str, int]

    @classmethod
    def open(cls, source: str | Mixture) -> TrainingText:
        """Opens the store, or each component that has a share.

        Raises:
            UserError: a store is absent, damaged or changed.
        """
        if not isinstance(source, Mixture):
            return cls(stores={source: TokenStore.open(source)}, shares={})
        shares = source.whole_shares
        stores = {name: TokenStore.open(source.components[name]) for name in shares}
        return cls(stores=stores, shares=shares)

    @property
    def vocabulary(self) -> VocabularyFacts:
        """Of the store; ``plan`` refuses components that differ in it."""
        return self._first.manifest.vocabulary

    @property
    def location(self) -> str:
        """Where a store of this vocabulary is."""
        return self._first.location

    @property
    def _first(self) -> TokenStore:
        return next(iter(self.stores.values()))

    def plan(self, *, context_length: int, batch_size: int, seed: int) -> BatchPlan | MixturePlan:
        """The batches.

        Raises:
            UserError: a context longer than a store, or components of several vocabularies.
        """
        if not self.shares:
            return BatchPlan(
                self._first, context_length=context_length, batch_size=batch_size, seed=seed
            )
        return MixturePlan(
            list(self.stores.values()),
            weights=list(self.shares.values()),
            context_length=context_length,
            batch_size=batch_size,
            seed=seed,
        )

    def facts(self, tokens: int) -> dict[str, Any]:
        """Facts of the run: ``pretraining_data``, and either ``store`` and ``epochs``, or each
        ``share.<component>`` and, in ``components``, what `component_tokens` needs.

        Args:
            tokens: target tokens of the whole run.
        """
        if not self.shares:
            return {
                "pretraining_data": self._first.manifest.name,
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
        named = {f"{SHARE}{name}": share for name, share in shares.items()}
        return {"pretraining_data": described(shares), **named, "components": components}


def component_tokens(facts: Mapping[str, Any], step: int) -> dict[str, int]:
    """``component_tokens.<component>`` of the loss table after ``step`` updates: the tokens of each
    component of a mixture that the run has seen; nothing for a run on one store.

    Args:
        facts: of the run (``facts.json``).
        step: of a checkpoint.
    """
    components = facts.get("components")
    if not components:
        return {}
    rows = step * facts["tokens_per_step"] // facts["context_length"]
    order = Interleaving(
        [item["share"] for item in components.values()],
        [item["store_fingerprint"] for item in components.values()],
    )
    return {
        f"{COMPONENT_TOKENS}{name}": count * facts["context_length"]
        for name, count in zip(components, order.counts(rows), strict=True)
    }
