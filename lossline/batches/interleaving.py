"""The component of every row of a mixture: after any number of rows, each component has had its
share to within one row.

A component of share s may have had floor(s·t) or ceil(s·t) rows after t rows: its j-th row has a
place from floor((j-1)/s) on and before ceil(j/s), its deadline. Of the rows that may come now, the
one with the earliest deadline is taken. That is proportionate fairness on one processor (Baruah,
Cohen, Plaxton & Varvel, Algorithmica 15, 1996).

Such an order is made from its beginning. To start anywhere, the rows are cut into blocks, and the
counts at a block's two ends are found from the row number alone (``_counts_at``). All numbers are
whole, so nothing drifts, however long the run.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

_PAGE = 4096  # rows made at a time
_BLOCKS_KEPT = 4


class Interleaving:
    """A fixed order of the components of a mixture.

    A page of rows is made in about ten milliseconds. Reading far into the run makes the rows of one
    block at most: 4096 of them, or 1/(the smallest share) if that is more.

    Args:
        shares: whole numbers, at least 1; component i has ``shares[i] / sum(shares)`` of the rows.
        keys: one text per component. Which of two components comes first where both may is decided
            by their keys, so that the order of the arguments changes nothing.
    """

    def __init__(self, shares: Sequence[int], keys: Sequence[str] | None = None) -> None:
        if not shares or min(shares) < 1:
            raise ValueError(f"shares {tuple(shares)}")
        places = range(len(shares))
        self._given = np.array(sorted(places, key=keys.__getitem__) if keys else places)
        self._shares = tuple(int(shares[place]) for place in self._given)
        # Every component gets a row in every block: its counts at the two ends cannot cross.
        pages = -(-sum(self._shares) // (min(self._shares) * _PAGE))
        self._block_rows = pages * _PAGE
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._lock = threading.Lock()

    def assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Component of each row, and the row's number among that component's rows.

        Args:
            rows: int64 [R], numbers of rows from 0.

        Returns:
            Two int64 arrays [R].
        """
        component = np.empty_like(rows)
        index = np.empty_like(rows)
        for page in np.unique(rows // _PAGE).tolist():
            chosen = rows // _PAGE == page
            components, counts = self._page(page)
            numbers = np.empty_like(components)
            for which in range(len(self._shares)):
                mine = components == which
                numbers[mine] = counts[which] + np.arange(np.count_nonzero(mine))
            component[chosen] = components[rows[chosen] % _PAGE]
            index[chosen] = numbers[rows[chosen] % _PAGE]
        return self._given[component], index

    def counts(self, rows: int) -> tuple[int, ...]:
        """Rows of each component among the first ``rows``."""
        components, counts = self._page(rows // _PAGE)
        more = np.bincount(components[: rows % _PAGE], minlength=len(self._shares))
        return tuple((counts + more)[np.argsort(self._given)].tolist())

    def _page(self, page: int) -> tuple[np.ndarray, np.ndarray]:
        """Components of the rows of a page, and the counts before it; both int64."""
        block, place = divmod(page, self._block_rows // _PAGE)
        with self._lock:
            if block not in self._blocks:
                first = block * self._block_rows
                self._blocks[block] = _Block(self._shares, first, first + self._block_rows)
            self._blocks.move_to_end(block)
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
            return self._blocks[block].page(place)


class _Block:
    """The rows from ``first`` to ``end``, made page by page as they are asked for."""

    def __init__(self, shares: Sequence[int], first: int, end: int) -> None:
        before = _counts_at(shares, first)
        self._order = _earliest_deadline_first(shares, first, end, before, _counts_at(shares, end))
        self._pages: list[np.ndarray] = []
        self._counts = [np.asarray(before, np.int64)]  # before each page
        self._dtype = np.min_scalar_type(len(shares))

    def page(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        while len(self._pages) <= number:
            made = np.fromiter(itertools.islice(self._order, _PAGE), self._dtype, _PAGE)
            self._pages.append(made)
            self._counts.append(
                self._counts[-1] + np.bincount(made, minlength=len(self._counts[0]))
            )
        return self._pages[number].astype(np.int64), self._counts[number]


def _earliest_deadline_first(
    shares: Sequence[int], first: int, end: int, before: Sequence[int], after: Sequence[int]
) -> Iterator[int]:
    """Components of the rows ``first`` to ``end``, which take the counts from ``before`` to
    ``after``.
    """
    total = sum(shares)
    done = list(before)
    to_come: list[tuple[int, int, int]] = []  # (earliest row, deadline, component)
    waiting: list[tuple[int, int]] = []  # (deadline, component)

    def offer_next(which: int) -> None:
        if done[which] < after[which]:
            earliest = done[which] * total // shares[which]
            deadline = min(-(-(done[which] + 1) * total // shares[which]), end)
            heapq.heappush(to_come, (earliest, deadline, which))

    for which in range(len(shares)):
        offer_next(which)
    for row in range(first, end):
        while to_come and to_come[0][0] <= row:
            heapq.heappush(waiting, heapq.heappop(to_come)[1:])
        _, which = heapq.heappop(waiting)
        yield which
        done[which] += 1
        offer_next(which)


def _counts_at(shares: Sequence[int], row: int) -> list[int]:
    """Rows of each component before ``row``, where two blocks meet: floor(s·row) or ceil(s·row).

    The components that are rounded up must leave the later rows able to keep every deadline, and
    the earlier rows able not to come too soon. By Hall's theorem it is enough that, ordered by
    their next deadline, the first m components (any m) hold as many of those rounded up as the sum
    of their fractions, itself rounded up or down; and the same ordered by the start of their
    current interval; and that every component has a row in every block.
    """
    total = sum(shares)
    counts = [share * row // total for share in shares]
    parts = [share * row % total for share in shares]  # fractions in units of 1/total
    split = [which for which, part in enumerate(parts) if part]
    by_deadline = sorted(split, key=lambda i: Fraction((counts[i] + 1) * total, shares[i]))
    by_start = sorted(split, key=lambda i: Fraction(counts[i] * total, shares[i]))
    for which in _rounded_up(parts, total, by_deadline, by_start):
        counts[which] += 1
    return counts


def _rounded_up(
    parts: Sequence[int], total: int, first: Sequence[int], second: Sequence[int]
) -> list[int]:
    """Which of ``parts`` (in units of 1/total, together a whole number) to round up, so that each
    prefix in the order ``first``, and each in the order ``second``, is rounded up or down too.

    The parts are a flow: from a chain of nodes in one order to a chain in the other; what flows
    along a chain is a prefix sum. A fractional flow is made whole by pushing along cycles of
    fractional edges, which takes no edge past a whole number.
    """
    places = [{which: place for place, which in enumerate(order)} for order in (first, second)]
    ends: list[tuple[tuple[int, int], tuple[int, int]]] = []  # (chain, place) of both nodes
    flows: list[int] = []
    for which in first:
        ends.append(((0, places[0][which]), (1, places[1][which])))
        flows.append(parts[which])
    for chain, order in enumerate((first, second)):
        sums = itertools.accumulate(parts[which] for which in order)
        for place, flow in zip(range(len(order) - 1), sums, strict=False):
            # The first chain carries what has yet to leave it: a whole number minus the prefix.
            ends.append(((chain, place), (chain, place + 1)))
            flows.append(flow if chain else -flow)
    while cycle := _fractional_cycle(ends, flows, total):
        push = min(
            -flows[edge] % total if sign > 0 else flows[edge] % total for edge, sign in cycle
        )
        for edge, sign in cycle:
            flows[edge] += sign * push
    return [which for which, flow in zip(first, flows, strict=False) if flow]


def _fractional_cycle(
    ends: Sequence[tuple[tuple[int, int], tuple[int, int]]], flows: Sequence[int], total: int
) -> list[tuple[int, int]]:
    """A cycle of edges whose flow is not whole, each with +1 or -1 for its direction; empty if
    every flow is whole. No node has only one such edge, so a walk always goes on.
    """
    touching: dict[tuple[int, int], list[int]] = {}
    for edge, flow in enumerate(flows):
        if flow % total:
            for node in ends[edge]:
                touching.setdefault(node, []).append(edge)
    if not touching:
        return []
    node = next(iter(touching))
    walk: list[tuple[int, int]] = []
    reached = {node: 0}  # node -> edges walked before it
    while True:
        came_by = walk[-1][0] if walk else None
        edge = next(edge for edge in touching[node] if edge != came_by)
        tail, head = ends[edge]
        walk.append((edge, 1 if node == tail else -1))
        node = head if node == tail else tail
        if node in reached:
            return walk[reached[node] :]
        reached[node] = len(walk)
