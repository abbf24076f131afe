"""Interleaving: every count stays within one row of its share, from any starting row."""

import random

import numpy as np
import pytest

from lossline.batches.interleaving import Interleaving

PAGE = 4096


def random_shares(rng: random.Random) -> list[int]:
    """Return integer shares of 1 to 20 components, equal or different by a factor up to 1000."""
    size = rng.choice([1, 2, 3, 4, 5, 8, 20])
    power = rng.randint(1, 8)
    shares = [1 + int(10**12 * rng.random() ** power) for _ in range(size)]
    return [max(share, max(shares) // 1000) for share in shares]


def furthest(shares: list[int], first: int, rows: int) -> int:
    """Return the largest |count · sum(shares) - share · row| of any component.

    The maximum is over all rows from ``first`` to ``first + rows``, in exact integers. A value
    below sum(shares) means an error below one row.
    """
    order = Interleaving(shares)
    component, index = order.assign(np.arange(first, first + rows, dtype=np.int64))
    total, before = sum(shares), order.counts(first)
    assert sum(before) == first
    worst = 0
    for which, share in enumerate(shares):
        mine = component == which
        np.testing.assert_array_equal(index[mine], before[which] + np.arange(mine.sum()))
        after = np.concatenate([[0], np.cumsum(mine)]).tolist()
        away = [
            abs((before[which] + count) * total - share * (first + row))
            for row, count in enumerate(after)
        ]
        worst = max(worst, *away)
    assert order.counts(first + rows) == tuple(
        n + int((component == which).sum()) for which, n in enumerate(before)
    )
    return worst


def test_every_prefix_has_every_share_within_one_row() -> None:
    rng = random.Random(7)
    for _ in range(40):
        shares = random_shares(rng)
        assert furthest(shares, 0, 2 * PAGE + 100) < sum(shares), shares


def test_shares_do_not_drift_in_ten_billion_rows() -> None:
    """Includes rows across block boundaries, where the counts are computed again."""
    rng = random.Random(8)
    for _ in range(40):
        shares = random_shares(rng)
        first = rng.randint(0, 10**10)
        assert furthest(shares, first, 2 * PAGE) < sum(shares), (shares, first)


@pytest.mark.parametrize(
    "shares", [[1, 1], [3, 3, 2, 2], [4, 4, 1, 1], [1] * 12, [98, 2], [10**6, 1, 1], [10**9, 1]]
)
def test_shares_with_equal_deadlines_stay_within_one_row(shares: list[int]) -> None:
    assert furthest(shares, 0, 3 * PAGE) < sum(shares)


def test_tiny_share_gets_its_rows_on_time() -> None:
    order = Interleaving([299_999, 1])
    assert order.counts(300_000) == (299_999, 1)
    assert order.counts(900_000) == (899_997, 3)


def test_row_does_not_depend_on_the_starting_row() -> None:
    shares = [5_000_000_019, 1_234_567_890, 777_777_777, 31]
    rows = np.arange(0, 3 * PAGE, dtype=np.int64)
    whole = np.stack(Interleaving(shares).assign(rows))
    for first in (0, 1, PAGE - 1, PAGE, 2 * PAGE + 5):
        part = np.stack(Interleaving(shares).assign(rows[first:]))
        np.testing.assert_array_equal(part, whole[:, first:])
    scattered = np.random.default_rng(0).permutation(rows)
    np.testing.assert_array_equal(
        np.stack(Interleaving(shares).assign(scattered)), whole[:, scattered]
    )


def test_every_batch_is_within_two_rows_of_the_shares() -> None:
    """Holds for any consecutive rows."""
    component, _ = Interleaving([7, 3]).assign(np.arange(1000, dtype=np.int64))
    for width in (10, 32, 100):
        seen = np.convolve(component == 1, np.ones(width, int), mode="valid")
        assert seen.min() >= 0.3 * width - 2 and seen.max() <= 0.3 * width + 2


def test_order_equals_the_golden_value() -> None:
    """Change the golden value only together with all fingerprints: it is the data of old runs."""
    component, _ = Interleaving([7, 2, 1]).assign(np.arange(20, dtype=np.int64))
    assert component.tolist() == GOLDEN
    first = 10**9 + 7
    later, index = Interleaving([10**9, 10**9 - 1, 3 * 10**8]).assign(
        np.arange(first, first + 8, dtype=np.int64)
    )
    assert (later.tolist(), index.tolist()) == GOLDEN_LATER


GOLDEN = [0, 0, 0, 1, 0, 0, 1, 0, 0, 2, 0, 0, 0, 1, 0, 0, 1, 0, 0, 2]
GOLDEN_LATER = (
    [0, 1, 2, 0, 1, 0, 1, 0],
    [434782612, 434782612, 130434783, 434782613, 434782613, 434782614, 434782614, 434782615],
)
