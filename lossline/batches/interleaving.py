"""Choose the component of every row of a mixture.

Guarantee: after any t rows, a component with share s has had floor(s·t) or ceil(s·t) rows. Its
count is always less than one row away from its exact share.

Method: row j of a component (j = 1, 2, …) is released at row floor((j-1)/s) and must come before
row ceil(j/s), its deadline. Among the released rows, the one with the earliest deadline comes next.
This is proportionate fairness on one processor (Baruah, Cohen, Plaxton & Varvel, Algorithmica 15,
1996).

This method must start at row 0. To start at any row, rows are grouped into blocks. The counts at
both ends of a block depend only on the row number (``_counts_at``), and the method then runs inside
the block. All numbers are integers, so no error accumulates in a long run.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

_PAGE = 4096  # rows computed at a time
_BLOCKS_KEPT = 4  # blocks in the cache


class Interleaving:
    """Fixed order of the components of a mixture.

    Computing a page of rows takes about 10 ms. Reading any row computes at most one block: 4,096
    rows, or about 1/(smallest share) rows if that is more.

    Args:
        shares: integers of at least 1; component i gets ``shares[i] / sum(shares)`` of the rows.
        keys: one text per component. Keys break ties between components, so the order of the
            arguments has no effect. Default: ties are broken by position.

    Raises:
        ValueError: no shares, or a share below 1.
    """

    def __init__(self, shares: Sequence[int], keys: Sequence[str] | None = None) -> None:
        if not shares or min(shares) < 1:
            raise ValueError(f"shares {tuple(shares)}")
        places = range(len(shares))
        self._given = np.array(sorted(places, key=keys.__getitem__) if keys else places)
        self._shares = tuple(int(shares[place]) for place in self._given)
        # In a block, the exact share of every component is at least one row. Its count therefore
        # never decreases between the two ends, although each end is rounded on its own.
        pages = -(-sum(self._shares) // (min(self._shares) * _PAGE))
        self._block_rows = pages * _PAGE
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._lock = threading.Lock()

    def assign(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the component of each row and the index of the row within that component.

        Args:
            rows: int64 [R]: row numbers, from 0.

        Returns:
            Component and index, each int64 [R].
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
        """Return the number of rows of each component among the first ``rows`` rows."""
        components, counts = self._page(rows // _PAGE)
        more = np.bincount(components[: rows % _PAGE], minlength=len(self._shares))
        return tuple((counts + more)[np.argsort(self._given)].tolist())

    def _page(self, page: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the components of a page's rows, and the counts before the page; both int64."""
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
    """Rows ``first`` to ``end - 1``, computed page by page on demand."""

    def __init__(self, shares: Sequence[int], first: int, end: int) -> None:
        before = _counts_at(shares, first)
        self._order = _earliest_deadline_first(shares, first, end, before, _counts_at(shares, end))
        self._pages: list[np.ndarray] = []
        self._counts = [np.asarray(before, np.int64)]  # before each page
        self._dtype = np.min_scalar_type(len(shares))

    def page(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the components of a page's rows, and the counts before the page; both int64."""
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
    """Yield the components of rows ``first`` to ``end - 1``.

    Args:
        shares: integer shares.
        first: first row.
        end: row after the last one.
        before: rows of each component before ``first``.
        after: rows of each component before ``end``.
    """
    total = sum(shares)
    done = list(before)
    to_come: list[tuple[int, int, int]] = []  # (earliest row, deadline, component)
    waiting: list[tuple[int, int]] = []  # (deadline, component)

    def offer_next(which: int) -> None:
        if done[which] < after[which]:
            earliest = done[which] * total // shares[which]
            # ceil(j/s) in integers; rows of this block are due at its end at the latest.
            deadline = min(-(-(done[which] + 1) * total // shares[which]), end)
            heapq.heappush(to_come, (earliest, deadline, which))

    for which in range(len(shares)):
        offer_next(which)
    for row in range(first, end):
        while to_come and to_come[0][0] <= row:  # released by now
            heapq.heappush(waiting, heapq.heappop(to_come)[1:])
        _, which = heapq.heappop(waiting)
        yield which
        done[which] += 1
        offer_next(which)


def _counts_at(shares: Sequence[int], row: int) -> list[int]:
    """Return the rows of each component before ``row``, the boundary of two blocks.

    Each count is floor(s·row) or ceil(s·row). The choice must satisfy two conditions: every later
    row can still meet its deadline, and no earlier row comes before its release.

    By Hall's theorem, three conditions are sufficient:

    * Sort the components by their next deadline. Among the first m components, for every m, the
      number of counts rounded up is the sum of their fractions, rounded up or down.
    * The same holds if they are sorted by the release of their current row.
    * The exact share of every component in a block is at least one row.
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
    """Choose the parts to round up, so that all prefix sums in two orders are rounded correctly.

    Rounded correctly means to the next integer above or below.

    Method: build a flow network with two chains of nodes, one per order. Each part is an edge from
    its node in the first chain to its node in the second chain. The edges along a chain carry the
    prefix sums. Pushing flow along a cycle of fractional edges keeps all sums consistent, moves no
    edge past an integer, and makes at least one edge an integer. Repeat until all are integers.

    Args:
        parts: fractions of all components, in units of 1/``total``; their sum is an integer.
        total: unit of the fractions.
        first: components with a fraction, in the first order.
        second: the same components, in the second order.

    Returns:
        The components to round up.
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
            # The first chain carries the rest: an integer minus the prefix sum, hence the sign.
            ends.append(((chain, place), (chain, place + 1)))
            flows.append(flow if chain else -flow)
    while cycle := _fractional_cycle(ends, flows, total):
        # The largest push that takes no edge past the next integer in its direction.
        push = min(
            -flows[edge] % total if sign > 0 else flows[edge] % total for edge, sign in cycle
        )
        for edge, sign in cycle:
            flows[edge] += sign * push
    # The first edges are the parts: each flow is now 0 (rounded down) or ``total`` (rounded up).
    return [which for which, flow in zip(first, flows, strict=False) if flow]


def _fractional_cycle(
    ends: Sequence[tuple[tuple[int, int], tuple[int, int]]], flows: Sequence[int], total: int
) -> list[tuple[int, int]]:
    """Return a cycle of edges with fractional flow, or [] if all flows are integers.

    Flow is conserved at every node, so no node has exactly one fractional edge. A walk along
    fractional edges therefore always continues until it closes a cycle.

    Returns:
        Edges of the cycle, each with +1 (along the edge) or -1 (against it).
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
        came_by = walk[-1][0] if walk else None  # never walk back along the same edge
        edge = next(edge for edge in touching[node] if edge != came_by)
        tail, head = ends[edge]
        walk.append((edge, 1 if node == tail else -1))
        node = head if node == tail else tail
        if node in reached:
            return walk[reached[node] :]
        reached[node] = len(walk)
