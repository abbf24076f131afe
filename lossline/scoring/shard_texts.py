"""The pages of a store in shards, packed into rows: what is measured, not what is summed."""

from __future__ import annotations

from lossline.evaluation.documents import Documents, Layout
from lossline.evaluation.packing import PackedTexts
from lossline.evaluation.windows import WindowRule
from lossline.scoring.shards import shard_ranges
from lossline.stores.token_store import TokenStore


class ShardTexts:
    """The pages of one store under one rule, in shards.

    Args:
        store: the store.
        rule: rule that cuts pages into windows.
        layout: shape of the batches.
        shard_tokens: wanted tokens of a shard.
    """

    def __init__(
        self, store: TokenStore, rule: WindowRule, layout: Layout, shard_tokens: int
    ) -> None:
        self.documents = Documents(store, rule=rule)
        self.ranges = shard_ranges(self.documents.computed_tokens, shard_tokens)
        self._layout = layout
        self._packed: dict[int, PackedTexts] = {}

    def packed(self, number: int) -> PackedTexts:
        """Return the pages of a shard, packed into rows once for all models."""
        if number not in self._packed:
            self._packed[number] = self.documents.packed(self._layout, self.ranges[number])
        return self._packed[number]

    def tokens(self, number: int) -> int:
        """Return the tokens that the pages of a shard cost, without packing them."""
        return int(self.documents.computed_tokens[self.ranges[number]].sum())
