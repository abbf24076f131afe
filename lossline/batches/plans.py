"""Training batches as a pure function of (fingerprint, seed, k).

All documents are concatenated, each followed by eos, and split into windows of ``context_length``
targets. The inputs of a window are its targets shifted by one: they start with the token before the
first target (the first window starts with eos). Each token is a target exactly once per epoch,
except for the last ``num_tokens % context_length`` tokens. Every epoch shuffles the windows
differently.

Nothing here has state: the step number determines the batch, on any number of hosts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lossline.batches.interleaving import Interleaving
from lossline.batches.mixture import mixture_fingerprint, whole_shares
from lossline.batches.permutation import Permutation
from lossline.errors import UserError
from lossline.stores.token_store import TokenStore


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows of training windows.

    Attributes:
        inputs: int32 [B, L]: token ids.
        targets: int32 [B, L]: token ids; ``targets[:, i]`` is the token after ``inputs[:, i]``.
        weights: float32 [B, L]: 1 if the target counts, else 0.
        segment_ids: int32 [B, L]: number of the document that the target belongs to, from 1 in
            each row. The eos before a document is therefore the document's first input, as in
            evaluation. If attention stays within segments, every document starts from only eos.
        reference: float16 [B, L]: nats of each target under a reference model, NaN where unknown;
            None unless the plan has such a ``TokenColumn``.
        selected: bool [B, L]: whether to train on the target; None unless the plan has such a
            ``TokenColumn``.
    """

    inputs: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    segment_ids: np.ndarray
    reference: np.ndarray | None = None
    selected: np.ndarray | None = None


class TokenColumn(Protocol):
    """A value of every token of a store, which batches give for every target."""

    @property
    def field(self) -> str:
        """Name of the field of ``Batch``."""
        ...

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the values of ``length`` tokens from each position of the store, [R, length]."""
        ...


class Windows:
    """The windows of one store, shuffled.

    Args:
        store: an open token store.
        context_length: L, targets per window.
        seed: seed of the shuffles.
        column: further value of every target.

    Attributes:
        store: as above.
        length: ``context_length``.
        count: number of windows per epoch.

    Raises:
        UserError: ``context_length`` is below 1 or longer than the store.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        context_length: int,
        seed: int,
        column: TokenColumn | None = None,
    ) -> None:
        if context_length < 1:
            raise UserError(f"context_length {context_length}: too short. Give at least 1.")
        if store.num_tokens < context_length:
            raise UserError(
                f"{store.location}: {store.num_tokens} tokens are fewer than context_length "
                f"{context_length}. Set train.context_length to at most {store.num_tokens}, or "
                "prepare a larger set."
            )
        self.store = store
        self.length = context_length
        self.count = store.num_tokens // context_length
        self._key = (store.manifest.fingerprint, seed, context_length)
        self._column = column

    def order(self, rows: np.ndarray) -> np.ndarray:
        """Return the window of each row; epochs follow each other.

        Args:
            rows: int64 [R]: row numbers since the start of training, from 0.

        Returns:
            int64 [R]: window numbers.
        """
        windows = np.empty_like(rows)
        epochs = rows // self.count
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            windows[chosen] = Permutation(self.count, *self._key, int(epoch))(
                rows[chosen] % self.count
            )
        return windows

    def read(self, windows: np.ndarray) -> Batch:
        """Read windows as a batch.

        Args:
            windows: int64 [R]: window numbers.

        Returns:
            A batch of R rows.
        """
        starts = windows * self.length
        tokens = np.empty((len(windows), self.length + 1), np.int32)
        first = starts == 0  # no token precedes the first window; its first input is eos
        # One read gives inputs and targets: the window and the token before it.
        tokens[~first] = self.store.read_many(starts[~first] - 1, self.length + 1)
        tokens[first, 1:] = self.store.read_many(starts[first], self.length)
        tokens[first, 0] = self.store.manifest.vocabulary.eos_id
        positions = starts[:, None] + np.arange(self.length)
        # Number of documents that start at or before each target. An eos belongs to the document
        # that it ends.
        documents = np.searchsorted(self.store.offsets, positions, side="right")
        more = (
            {}
            if self._column is None
            else {self._column.field: self._column.read(starts, self.length)}
        )
        return Batch(
            inputs=tokens[:, :-1],
            targets=tokens[:, 1:],
            weights=np.ones(positions.shape, np.float32),
            segment_ids=(documents - documents[:, :1] + 1).astype(np.int32),
            **more,
        )


class BatchPlan:
    """Batches of one store.

    Args:
        store: an open token store.
        context_length: L, targets per row.
        batch_size: B, rows of the global batch.
        seed: seed of the shuffles.
        column: further value of every target.

    Attributes:
        fingerprint: fingerprint of the store.

    Raises:
        UserError: ``context_length`` is below 1 or longer than the store, or ``batch_size`` is
            below 1.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        context_length: int,
        batch_size: int,
        seed: int,
        column: TokenColumn | None = None,
    ) -> None:
        self.batch_size = _checked_batch_size(batch_size)
        self.windows = Windows(store, context_length=context_length, seed=seed, column=column)
        self.fingerprint = store.manifest.fingerprint

    def batch(self, k: int, rows: slice | None = None) -> Batch:
        """Return a batch, or some of its rows.

        Args:
            k: number of the batch, from 0.
            rows: rows to return, such as those of one host. None: all B rows.

        Raises:
            IndexError: ``k`` is negative.
        """
        return self.windows.read(self.windows.order(_row_numbers(k, self.batch_size, rows)))


class MixturePlan:
    """Batches of several stores, each in its own shuffled order, epoch by epoch.

    After any number of rows, the count of each store is less than one row away from its share
    (``lossline.batches.interleaving``). Batches depend only on the contents of the stores, the
    shares, the seed and the number of the batch. A mixture of one store gives the batches of its
    ``BatchPlan``.

    Args:
        stores: open token stores with the same vocabulary.
        weights: share of rows of each store; need not sum to 1. A float counts as its decimal
            notation: 0.7 and 0.3 are exactly 7 to 3. A store with weight 0 is excluded.
        context_length: L, targets per row.
        batch_size: B, rows of the global batch.
        seed: seed of the shuffles.
        columns: further value of every target, one for each store, all of the same field; empty:
            none.

    Attributes:
        sources: windows of the stores with a positive weight, in the given order.
        shares: their shares, as integers without a common divisor.
        fingerprint: fingerprint of the mixture.

    Raises:
        UserError: the numbers of stores and weights differ, a weight is negative or not finite, no
            weight is above 0, the stores have several vocabularies, a store occurs twice, or
            ``context_length`` is longer than a store.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        *,
        weights: Sequence[float],
        context_length: int,
        batch_size: int,
        seed: int,
        columns: Sequence[TokenColumn] = (),
    ) -> None:
        if not stores or len(stores) != len(weights):
            raise UserError(
                f"mixture: {len(stores)} stores and {len(weights)} weights. Give one weight per "
                "store."
            )
        self.batch_size = _checked_batch_size(batch_size)
        whole = whole_shares(
            {str(place): weight for place, weight in enumerate(weights)}, where="mixture: weights"
        )
        stores = [stores[int(place)] for place in whole]
        self.shares = tuple(whole.values())
        _check_one_vocabulary(stores)
        _check_different(stores)
        chosen = [columns[int(place)] for place in whole] if columns else [None] * len(stores)
        self.sources = [
            Windows(store, context_length=context_length, seed=seed, column=column)
            for store, column in zip(stores, chosen, strict=True)
        ]
        prints = [store.manifest.fingerprint for store in stores]
        self.fingerprint = mixture_fingerprint(prints, self.shares)
        self._interleaving = Interleaving(self.shares, prints)

    def batch(self, k: int, rows: slice | None = None) -> Batch:
        """Return a batch, or some of its rows.

        Args:
            k: number of the batch, from 0.
            rows: rows to return, such as those of one host. None: all B rows.

        Raises:
            IndexError: ``k`` is negative.
        """
        numbers = _row_numbers(k, self.batch_size, rows)
        source, index = self.assign(numbers)
        parts = [
            (source == which, windows.read(windows.order(index[source == which])))
            for which, windows in enumerate(self.sources)
            if (source == which).any()
        ]
        return _joined(parts, len(numbers))

    def assign(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source of each row and the index of the row within that source.

        Args:
            numbers: int64 [R]: row numbers since the start of training, from 0.

        Returns:
            Source and index, each int64 [R].
        """
        return self._interleaving.assign(numbers)

    def counts(self, rows: int) -> tuple[int, ...]:
        """Return the number of rows of each source among the first ``rows`` rows of training."""
        return self._interleaving.counts(rows)


def _joined(parts: Sequence[tuple[np.ndarray, Batch]], rows: int) -> Batch:
    """Put the rows of several batches together; each comes with a mask [rows] of its rows."""
    values = {}
    for name in Batch.__dataclass_fields__:
        arrays = [(mask, getattr(part, name)) for mask, part in parts]
        if arrays[0][1] is None:
            continue
        values[name] = np.empty((rows, *arrays[0][1].shape[1:]), arrays[0][1].dtype)
        for mask, array in arrays:
            values[name][mask] = array
    return Batch(**values)


def _row_numbers(k: int, batch_size: int, rows: slice | None) -> np.ndarray:
    if k < 0:
        raise IndexError(f"batch {k}")
    numbers = np.arange(k * batch_size, (k + 1) * batch_size, dtype=np.int64)
    return numbers if rows is None else numbers[rows]


def _checked_batch_size(batch_size: int) -> int:
    if batch_size < 1:
        raise UserError(f"batch_size {batch_size}: too small. Give at least 1.")
    return batch_size


def _check_one_vocabulary(stores: Sequence[TokenStore]) -> None:
    if len({store.manifest.vocabulary.hash for store in stores}) > 1:
        found = ", ".join(f"{s.location} has {s.manifest.vocabulary.name}" for s in stores)
        raise UserError(
            f"mixture: stores of several vocabularies ({found}). Prepare them with the same "
            "vocabulary."
        )


def _check_different(stores: Sequence[TokenStore]) -> None:
    """Raise ``UserError`` if two stores have equal contents.

    Equal contents have equal shuffles, so every window would occur twice in succession.
    """
    first: dict[str, TokenStore] = {}
    for store in stores:
        same = first.setdefault(store.manifest.fingerprint, store)
        if same is not store:
            raise UserError(
                f"mixture: {same.location} and {store.location} are the same text, so training "
                "would repeat every window. Name it once, with the sum of both shares."
            )
