"""Tokens chosen once over the corpus, against a definition with sorts."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest

from lossline.objectives.corpus_choice import choose
from lossline.stores.token_scores import ReferenceScore

NATS, ENTROPY = ReferenceScore.NATS, ReferenceScore.ENTROPY


class Scores:
    """Token scores in memory, read in blocks of 64 tokens."""

    def __init__(self, nats: np.ndarray, entropy: np.ndarray | None = None) -> None:
        self._values = {"nats": nats, "entropy": nats if entropy is None else entropy}

    def whole(self, quantity: str) -> Iterator[tuple[int, np.ndarray]]:
        values = self._values[quantity]
        for start in range(0, len(values), 64):
            yield start, values[start : start + 64]


def chosen(share: str, quantities: list[ReferenceScore], scores: list[Scores], weights=(1,)):
    sizes = [len(item._values["nats"]) for item in scores]
    bits = choose(Fraction(share), quantities, scores, weights)
    return [np.unpackbits(b)[:n].astype(bool) for b, n in zip(bits, sizes, strict=True)]


def draw(seed: int, size: int = 1000, values: int | None = None) -> np.ndarray:
    """Scores as float16, with NaN at the end; with ``values`` only a few different ones."""
    random = np.random.default_rng(seed)
    found = random.gamma(2.0, 1.5, size)
    found = found if values is None else np.floor(found * values / found.max())
    found[-7:] = np.nan
    return found.astype(np.float16)


@pytest.mark.parametrize("values", [None, 5, 1])
@pytest.mark.parametrize("share", ["0.0001", "0.29", "0.6", "1"])
def test_smallest_scores_are_chosen_ties_by_position(share: str, values: int | None):
    nats = draw(1, values=values)
    [found] = chosen(share, [NATS], [Scores(nats)])
    count = int(Fraction(share) * 993)
    expected = np.zeros(1000, bool)
    expected[np.argsort(nats, kind="stable")[:count]] = True  # NaN is last
    np.testing.assert_array_equal(found, expected)


def test_negative_zero_and_rounding_below_zero_count_as_zero():
    nats = np.array([0.0, -0.0, -1e-4, 0.5, 0.0, 1.0, 1.5, 2.0], np.float16)
    [found] = chosen("0.5", [NATS], [Scores(nats)])
    assert found.tolist() == [True, True, True, False, True, False, False, False]


@pytest.mark.parametrize("share", ["0.3", "0.6", "0.9"])
def test_intersection_is_one_of_two_equal_parts(share: str):
    """The chosen tokens are exactly those in the first q of both rankings, for some q."""
    nats, entropy = draw(2, 993 + 7), draw(3, 993 + 7)
    [found] = chosen(share, [NATS, ENTROPY], [Scores(nats, entropy)])
    assert found.sum() == int(Fraction(share) * 993)
    ranks = [np.searchsorted(np.sort(v[:993]), v[:993], side="left") for v in (nats, entropy)]
    worse = np.maximum(*ranks)
    assert worse[found[:993]].max() <= worse[~found[:993]].min()
    q = worse[found[:993]].max()
    both = (ranks[0] <= q) & (ranks[1] <= q)
    assert not (found[:993] & ~both).any()
    assert both.sum() - found.sum() == (worse[~found[:993]] == q).sum()  # only ties of the last


def test_mixture_chooses_the_share_of_what_training_sees():
    """Components of different sizes and losses: seen tokens are selected at the wanted share."""
    easy, hard = Scores(draw(4, 500) / 2), Scores(draw(5, 4000) * np.float16(1.5))
    found = chosen("0.6", [NATS], [easy, hard], (3, 1))
    seen = 0.75 * found[0].sum() / 493 + 0.25 * found[1].sum() / 3993
    assert seen == pytest.approx(0.6, abs=0.002)
    thresholds = [
        np.nanmax(np.where(mask, item._values["nats"], np.nan))
        for mask, item in zip(found, (easy, hard), strict=True)
    ]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=0.05)  # one threshold for both


def test_tokens_without_a_score_are_never_chosen():
    nats = draw(6)
    nats[::3] = np.nan
    nats[1] = np.inf
    [found] = chosen("1", [NATS], [Scores(nats)])
    np.testing.assert_array_equal(found, np.isfinite(nats))


def test_no_score_at_all_chooses_nothing():
    [found] = chosen("0.5", [NATS], [Scores(np.full(100, np.nan, np.float16))])
    assert not found.any()
