"""Pack windows into rows of a fixed shape, with little padding and only one compilation.

Several short windows share a row. Segment ids separate them (attention, recurrent state and
convolutions do not cross), and positions restart at 0 in each window. The layout depends only on
the texts, the rule and the row length, never on the batch size.

Letters: B rows of a batch, L row length, G groups of rows, K scored tokens of a group (padded to a
fixed number).
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lossline.evaluation.windows import Window


class RowLayout(enum.Enum):
    """PACKED: as many windows per row as fit. PADDED: one, for a model without segment ids."""

    PACKED = "packed"
    PADDED = "padded"


@dataclass(frozen=True)
class PackedRows:
    """Input of one call of the model.

    The B rows form G equal groups, one for each device that holds rows.

    Attributes:
        inputs_BxL: token ids, int32.
        segment_ids_BxL: 1, 2, … within a row, 0 for padding; int32.
        positions_BxL: positions from 0 in each window, int32.
        index_GxK: position (row * L + column, within the rows of the group) of each scored token.
        targets_GxK: id of each scored token.
        texts_GxK: text that each scored token belongs to.
        scored_GxK: true for real entries, False for padding.
    """

    inputs_BxL: np.ndarray
    segment_ids_BxL: np.ndarray
    positions_BxL: np.ndarray
    index_GxK: np.ndarray
    targets_GxK: np.ndarray
    texts_GxK: np.ndarray
    scored_GxK: np.ndarray


class PackedTexts:
    """Texts cut into windows and packed into rows; ``batches`` yields them in a fixed shape.

    Args:
        texts: token ids of each text, int32 [length].
        windows: windows of each text.
        opening_id: id in front of each text (the vocabulary's end-of-document id).
        row_length: L; at least the longest window.
        batch_size: B.
        groups: G; must divide B.
        layout: packed or padded.
    """

    def __init__(
        self,
        texts: Sequence[np.ndarray],
        windows: Sequence[Sequence[Window]],
        *,
        opening_id: int,
        row_length: int,
        batch_size: int,
        groups: int = 1,
        layout: RowLayout = RowLayout.PACKED,
    ) -> None:
        # The texts lie end to end with the opening id before each: position i of text t reads
        # self._ids[first[t] + i] and predicts self._ids[first[t] + i + 1].
        self._ids = np.concatenate(
            [part for text in texts for part in ([opening_id], text)],
            dtype=np.int32,
            casting="unsafe",
        )
        lengths = np.array([len(text) + 1 for text in texts], np.int64)
        first = np.cumsum(lengths) - lengths
        flat = [(t, w.start, w.stop, w.scored) for t, ws in enumerate(windows) for w in ws]
        table = np.array(flat, np.int64).reshape(-1, 4)
        self._text, start, stop, scored = table.T
        self._length = stop - start
        if len(table) and self._length.max() > row_length:
            raise ValueError(
                f"a window of {self._length.max()} tokens does not fit rows of {row_length}"
            )
        self._source = first[self._text] + start
        self._skip = scored - start
        self._row, self._column, self._segment = _place(self._length, row_length, layout)
        # Sorted by row, so that a batch is a slice that searchsorted finds.
        order = np.lexsort((self._column, self._row))
        for name in ("_text", "_length", "_source", "_skip", "_row", "_column", "_segment"):
            setattr(self, name, getattr(self, name)[order])
        self.num_texts = len(texts)
        self.num_rows = int(self._row[-1]) + 1 if len(table) else 0
        self.row_length = row_length
        self.batch_size = batch_size
        self.groups = groups
        self.capacity = self._scored_capacity()

    @property
    def num_batches(self) -> int:
        """Number of calls of the model for the whole set."""
        return -(-self.num_rows // self.batch_size)

    @property
    def num_tokens(self) -> int:
        """Tokens that the model computes; repeated context counts, padding does not."""
        return int(self._length.sum())

    @property
    def num_cells(self) -> int:
        """Positions that the model computes, padding included."""
        return self.num_batches * self.batch_size * self.row_length

    def batches(self) -> Iterator[PackedRows]:
        """Return an iterator over all batches, in order."""
        return (self.batch(index) for index in range(self.num_batches))

    def batch(self, index: int) -> PackedRows:
        """Return rows ``index * B`` to ``(index + 1) * B``; rows after the last one are padding."""
        lo, hi = np.searchsorted(
            self._row, [index * self.batch_size, (index + 1) * self.batch_size]
        )
        length, source = self._length[lo:hi], self._source[lo:hi]
        row = self._row[lo:hi] - index * self.batch_size
        window, offset = _spread(length)
        at = (row * self.row_length + self._column[lo:hi])[window] + offset
        read = source[window] + offset
        keep = offset >= self._skip[lo:hi][window]
        slots = self._slots(at[keep])
        cells = (self.batch_size, self.row_length)
        entries = (self.groups, self.capacity)
        # Positions count within a group, because each device gathers only from its own rows.
        in_group = at[keep] % (self.batch_size // self.groups * self.row_length)
        return PackedRows(
            inputs_BxL=_scatter(at, self._ids[read], cells),
            segment_ids_BxL=_scatter(at, self._segment[lo:hi][window], cells),
            positions_BxL=_scatter(at, offset, cells),
            index_GxK=_scatter(slots, in_group, entries),
            targets_GxK=_scatter(slots, self._ids[read[keep] + 1], entries),
            texts_GxK=_scatter(slots, self._text[lo:hi][window][keep], entries),
            scored_GxK=_scatter(slots, 1, entries).astype(bool),
        )

    def _slots(self, at: np.ndarray) -> np.ndarray:
        """Return the index of each scored token in the flat GxK entries, in group order."""
        group = at // (self.batch_size // self.groups * self.row_length)
        count = np.bincount(group, minlength=self.groups)
        turn = np.empty(len(at), np.int64)
        turn[np.argsort(group, kind="stable")] = _spread(count)[1]
        return group * self.capacity + turn

    def _scored_capacity(self) -> int:
        """Return K: the scored tokens of the fullest group, rounded up.

        Rounding up to a quarter of the group's cells keeps the number of compiled shapes small.
        """
        rows = self.batch_size // self.groups
        counts = np.bincount(self._row // rows, weights=self._length - self._skip, minlength=1)
        quarter = -(-rows * self.row_length // 4)
        return max(1, int(-(-counts.max() // quarter))) * quarter


def _place(
    length: np.ndarray, row_length: int, layout: RowLayout
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return row, column and segment id of each window: best fit, longest window first.

    Needs at most 11/9 of the smallest possible number of rows (D. S. Johnson, 1973), in practice
    1-2% more than it.
    """
    count = len(length)
    if layout is RowLayout.PADDED:
        return np.arange(count), np.zeros(count, np.int64), np.ones(count, np.int64)
    row, column, segment = (np.zeros(count, np.int64) for _ in range(3))
    rooms: list[int] = []  # distinct amounts of free room, ascending
    # Free room -> (row, number of windows in it).
    open_rows: dict[int, list[tuple[int, int]]] = {}
    rows = 0
    for w in np.argsort(-length, kind="stable"):
        need = int(length[w])
        fit = bisect.bisect_left(rooms, need)
        if fit < len(rooms):
            room = rooms[fit]
            r, held = open_rows[room].pop()
            if not open_rows[room]:
                del open_rows[room]
                rooms.pop(fit)
        else:
            room, r, held = row_length, rows, 0
            rows += 1
        row[w], column[w], segment[w] = r, row_length - room, held + 1
        if left := room - need:
            if left not in open_rows:
                bisect.insort(rooms, left)
                open_rows[left] = []
            open_rows[left].append((r, held + 1))
    return row, column, segment


def _spread(length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the window and the offset in it of each token of windows laid end to end."""
    window = np.repeat(np.arange(len(length)), length)
    return window, np.arange(len(window)) - np.repeat(np.cumsum(length) - length, length)


def _scatter(at: np.ndarray, values: np.ndarray | int, shape: tuple[int, int]) -> np.ndarray:
    out = np.zeros(shape[0] * shape[1], np.int32)
    out[at] = values
    return out.reshape(shape)
