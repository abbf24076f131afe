"""Training batches as a pure function of (fingerprint, seed, k).

The documents stand one after the other, each ended by eos, and are cut into windows of
``context_length`` targets. Every window's input is its targets shifted by one, so it begins with
the token before them (the first one with eos): each token of the set is a target exactly once per
epoch, but for the last ``num_tokens % context_length``. Each epoch has its own shuffle of the
windows.

Nothing here has a state: the step number says which batch comes next, on one host or on a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossline.batches.interleaving import Interleaving
from lossline.batches.mixture import mixture_fingerprint, whole_shares
from lossline.batches.permutation import Permutation
from lossline.errors import UserError
from lossline.stores.token_store import TokenStore


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of training windows, B x L.

    Attributes:
        inputs: int32 token ids.
        targets: int32 token ids, ``inputs`` shifted by one.
        weights: float32, 1 where the target counts.
        segment_ids: int32, from 1 within each row: the document of the TARGET. The eos before a
            document is its first input, as in evaluation, so with attention kept within segments
            every document starts from eos alone.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    segment_ids: np.ndarray


class Windows:
    """The windows of one store in the order of a seed."""

    def __init__(self, store: TokenStore, *, context_length: int, seed: int) -> None:
        if context_length < 1:
            raise UserError(f"context_length {context_length}: give a length of at least 1")
        if store.num_tokens < context_length:
            raise UserError(
                f"{store.location}: {store.num_tokens} tokens are fewer than context_length "
                f"{context_length}; shorten the context or prepare a larger set"
            )
        self.store = store
        self.length = context_length
        self.count = store.num_tokens // context_length
        self._key = (store.manifest.fingerprint, seed, context_length)

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Window shown as the ``rows``-th of the training; epochs follow each other."""
        windows = np.empty_like(rows)
        epochs = rows // self.count
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            windows[chosen] = Permutation(self.count, *self._key, int(epoch))(
                rows[chosen] % self.count
            )
        return windows

    def read(self, windows: np.ndarray) -> Batch:
        """The given windows as rows."""
        starts = windows * self.length
        tokens = np.empty((len(windows), self.length + 1), np.int32)
        first = starts == 0
        tokens[~first] = self.store.read_many(starts[~first] - 1, self.length + 1)
        tokens[first, 1:] = self.store.read_many(starts[first], self.length)
        tokens[first, 0] = self.store.manifest.vocabulary.eos_id
        positions = starts[:, None] + np.arange(self.length)
        documents = np.searchsorted(self.store.offsets, positions, side="right")
        return Batch(
            inputs=tokens[:, :-1],
            targets=tokens[:, 1:],
            weights=np.ones(positions.shape, np.float32),
            segment_ids=(documents - documents[:, :1] + 1).astype(np.int32),
        )


class BatchPlan:
    """Batches of one store.

    Args:
        store: an open token store.
        context_length: L, targets per row.
        batch_size: B, rows of the global batch.
        seed: chooses the shuffles.

    Raises:
        UserError: ``context_length`` is longer than the set.
    """

    def __init__(
        self, store: TokenStore, *, context_length: int, batch_size: int, seed: int
    ) -> None:
        self.batch_size = _checked_batch_size(batch_size)
        self.windows = Windows(store, context_length=context_length, seed=seed)
        self.fingerprint = store.manifest.fingerprint

    @property
    def steps_per_epoch(self) -> float:
        """Batches after which every window was seen once."""
        return self.windows.count / self.batch_size

    def batch(self, k: int, rows: slice | None = None) -> Batch:
        """Batch number ``k`` (from 0), or only some of its rows (a host's share)."""
        return self.windows.read(self.windows.order(_row_numbers(k, self.batch_size, rows)))


class MixturePlan:
    """Batches drawn from several stores, each in its own shuffled order, epoch by epoch.

    After any number of rows, each store has had its share of them to within one row
    (``lossline.batches.interleaving``). The batches depend on the stores' contents, the shares, the
    seed and the batch's number; a mixture of one store is that store's ``BatchPlan``.

    Args:
        stores: open token stores of one vocabulary.
        weights: share of rows of each store; need not sum to 1. Floats count as the decimals they
            are written as: 0.7 and 0.3 are exactly 7 to 3. A store of weight 0 is left out.
        context_length: L, targets per row.
        batch_size: B, rows of the global batch.
        seed: chooses the shuffles.

    Attributes:
        sources: windows of the stores that are not left out, in the order given.
        shares: their shares, whole numbers without a common divisor.

    Raises:
        UserError: unequal numbers, a weight below 0 or not finite, no weight above 0, stores of two
            vocabularies, one store twice, a context longer than a set.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        *,
        weights: Sequence[float],
        context_length: int,
        batch_size: int,
        seed: int,
    ) -> None:
        if not stores or len(stores) != len(weights):
            raise UserError(
                f"mixture: {len(stores)} stores and {len(weights)} weights; give one weight per "
                "store"
            )
        self.batch_size = _checked_batch_size(batch_size)
        whole = whole_shares(
            {str(place): weight for place, weight in enumerate(weights)}, where="mixture: weights"
        )
        stores = [stores[int(place)] for place in whole]
        self.shares = tuple(whole.values())
        _check_one_vocabulary(stores)
        _check_different(stores)
        self.sources = [
            Windows(store, context_length=context_length, seed=seed) for store in stores
        ]
        prints = [store.manifest.fingerprint for store in stores]
        self.fingerprint = mixture_fingerprint(prints, self.shares)
        self._interleaving = Interleaving(self.shares, prints)

    def batch(self, k: int, rows: slice | None = None) -> Batch:
        """Batch number ``k`` (from 0), or only some of its rows (a host's share)."""
        numbers = _row_numbers(k, self.batch_size, rows)
        source, index = self.assign(numbers)
        shape = (len(numbers), self.sources[0].length)
        types = {
            "inputs": np.int32,
            "targets": np.int32,
            "weights": np.float32,
            "segment_ids": np.int32,
        }
        columns = {name: np.empty(shape, dtype) for name, dtype in types.items()}
        for which in np.unique(source):
            chosen = source == which
            windows = self.sources[which]
            part = windows.read(windows.order(index[chosen]))
            for name, column in columns.items():
                column[chosen] = getattr(part, name)
        return Batch(**columns)

    def assign(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row of the training, its source and its number among that source's rows."""
        return self._interleaving.assign(numbers)

    def counts(self, rows: int) -> tuple[int, ...]:
        """Rows of each source among the first ``rows`` of the training."""
        return self._interleaving.counts(rows)


def _row_numbers(k: int, batch_size: int, rows: slice | None) -> np.ndarray:
    if k < 0:
        raise IndexError(f"batch {k}")
    numbers = np.arange(k * batch_size, (k + 1) * batch_size, dtype=np.int64)
    return numbers if rows is None else numbers[rows]


def _checked_batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: give at least 1 row")
    return batch_size


def _check_one_vocabulary(stores: Sequence[TokenStore]) -> None:
    if len({store.manifest.vocabulary.hash for store in stores}) > 1:
        told = ", ".join(f"{s.location} has {s.manifest.vocabulary.name}" for s in stores)
        raise UserError(f"mixture: stores of several vocabularies ({told}); prepare them with one")


def _check_different(stores: Sequence[TokenStore]) -> None:
    """Two components of one content have one shuffle: each window would come twice in a row."""
    first: dict[str, TokenStore] = {}
    for store in stores:
        same = first.setdefault(store.manifest.fingerprint, store)
        if same is not store:
            raise UserError(
                f"mixture: {same.location} and {store.location} are the same text, and its windows "
                "would be shown twice; name it once, with the sum of both shares"
            )
