"""Mixture batches: exact shares after any row, whole epochs of each store, equal on all hosts."""

from pathlib import Path

import numpy as np
import pytest

from lossline.batches.mixture import whole_shares
from lossline.batches.plans import Batch, BatchPlan, MixturePlan
from lossline.errors import UserError
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary, Vocabulary

FIELDS = ("inputs", "targets", "weights", "segment_ids")


@pytest.fixture
def stores(tmp_path: Path) -> list[TokenStore]:
    """Stores a, b and c, with 1011, 101 and 506 windows of 16 tokens."""
    return [
        write_store(
            tmp_path / name,
            [name * (799 + number) for number in range(documents)],
            ByteVocabulary(),
            name=name,
        )
        for name, documents in (("a", 20), ("b", 2), ("c", 10))
    ]


class OtherBytes(ByteVocabulary):
    """The byte vocabulary with another content hash."""

    def __init__(self) -> None:
        pieces = [b""] * 3 + [bytes([value]) for value in range(256)]
        Vocabulary.__init__(
            self, name="other", kind="bytes", pieces=pieces, eos_id=1, pad_id=0, content="other"
        )


def plan(stores: list[TokenStore], weights: list[float], size: int = 8) -> MixturePlan:
    return MixturePlan(stores, weights=weights, context_length=16, batch_size=size, seed=3)


def same(first: Batch, second: Batch) -> bool:
    return all(np.array_equal(getattr(first, f), getattr(second, f)) for f in FIELDS)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.98, 0.02], [0.5, 0.2, 0.3], [3, 1e-4, 1.7]])
def test_store_repeats_no_window_within_an_epoch(
    stores: list[TokenStore], weights: list[float]
) -> None:
    """Each epoch of a store contains every window once, in a new order."""
    mixture = plan(stores[: len(weights)], weights)
    rows = 4100
    source, index = mixture.assign(np.arange(rows))
    for which, windows in enumerate(mixture.sources):
        mine = index[source == which]
        np.testing.assert_array_equal(mine, np.arange(len(mine)))
        assert abs(len(mine) - rows * weights[which] / sum(weights)) <= 1
        shown = windows.order(mine)
        epochs = [shown[i : i + windows.count] for i in range(0, len(shown), windows.count)]
        for epoch in epochs:
            assert len(set(epoch.tolist())) == len(epoch)
        if len(epochs) > 2:
            assert epochs[0].tolist() != epochs[1].tolist()


def test_run_of_just_over_one_epoch_uses_every_window(stores: list[TokenStore]) -> None:
    mixture = plan(stores, [0.5, 0.25, 0.25])
    source, index = mixture.assign(np.arange(2042))  # 1.01 epochs of the first store
    windows = mixture.sources[0]
    times = np.bincount(windows.order(index[source == 0]), minlength=windows.count)
    assert times.sum() == 1021
    assert (times.min(), times.max()) == (1, 2)


def test_batch_contains_the_assigned_rows(stores: list[TokenStore]) -> None:
    mixture = plan(stores, [5, 2, 3], size=20)
    for k in (0, 1, 777, 10**8):
        batch = mixture.batch(k)
        source, index = mixture.assign(np.arange(20 * k, 20 * (k + 1)))
        for row, (which, number) in enumerate(zip(source, index, strict=True)):
            windows = mixture.sources[which]
            alone = windows.read(windows.order(np.array([number])))
            for field in FIELDS:
                np.testing.assert_array_equal(getattr(batch, field)[row], getattr(alone, field)[0])


def test_batch_is_equal_for_all_hosts_and_read_orders(
    stores: list[TokenStore],
) -> None:
    whole = plan(stores, [0.5, 0.2, 0.3], size=12)
    for k in (5000, 0, 7, 10**7):
        batch, fresh = whole.batch(k), plan(stores, [0.5, 0.2, 0.3], size=12)
        hosts = [fresh.batch(k, rows=slice(i, i + 3)) for i in (9, 0, 6, 3)]
        for field in FIELDS:
            parts = [getattr(hosts[i], field) for i in (1, 3, 2, 0)]
            np.testing.assert_array_equal(np.concatenate(parts), getattr(batch, field))


def test_mixture_of_one_store_gives_the_batches_of_the_store(stores: list[TokenStore]) -> None:
    alone = BatchPlan(stores[0], context_length=16, batch_size=8, seed=3)
    for mixture in (plan(stores[:1], [0.3]), plan(stores, [2, 0, 0])):
        assert mixture.fingerprint == alone.fingerprint
        for k in (0, 200, 10**6):
            assert same(mixture.batch(k), alone.batch(k))


def test_order_and_scale_of_components_have_no_effect(stores: list[TokenStore]) -> None:
    first = plan(stores, [0.5, 0.2, 0.3])
    second = plan(stores[::-1], [3, 2, 5])
    assert first.fingerprint == second.fingerprint
    assert all(same(first.batch(k), second.batch(k)) for k in (0, 1, 400))
    assert first.counts(1001) == second.counts(1001)[::-1] == (501, 200, 300)
    other = plan(stores, [0.5, 0.3, 0.2])
    assert other.fingerprint != first.fingerprint


def test_component_with_share_zero_is_excluded(stores: list[TokenStore]) -> None:
    long = 10_000  # longer than stores b and c
    mixture = MixturePlan(stores, weights=[1, 0, 0], context_length=long, batch_size=1, seed=0)
    assert len(mixture.sources) == 1
    with pytest.raises(UserError, match="fewer than context_length"):
        MixturePlan(stores, weights=[1, 1e-9, 0], context_length=long, batch_size=1, seed=0)


def test_float_shares_count_as_their_decimal_notation() -> None:
    assert whole_shares({"a": 0.7, "b": 0.3}) == {"a": 7, "b": 3}
    assert whole_shares({"a": 70, "b": 0, "c": 30.0}) == {"a": 7, "c": 3}
    assert whole_shares({"a": 1e-9, "b": 1}) == {"a": 1, "b": 10**9}
    assert whole_shares({"a": np.float64(0.1), "b": np.int64(2)}) == {"a": 1, "b": 20}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"a": 1, "b": -0.1}, r"the share of 'b' is -0\.1\. Give a number of at least 0"),
        ({"a": 1, "b": float("nan")}, r"the share of 'b' is nan"),
        ({"a": float("inf")}, r"the share of 'a' is inf"),
        ({"a": 0, "b": 0.0}, r"no component has a share above 0"),
    ],
)
def test_invalid_shares_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        whole_shares(shares)


def test_mixture_refuses_other_vocabularies_and_missing_weights(
    stores: list[TokenStore], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="one weight per store"):
        plan(stores[:1], [1, 2])
    with pytest.raises(UserError, match="one weight per store"):
        plan([], [])
    words = write_store(tmp_path / "words", ["w" * 900], OtherBytes(), name="words")
    with pytest.raises(UserError, match=r"several vocabularies .*\. Prepare them with the same"):
        plan([stores[0], words], [1, 1])
    assert len(plan([stores[0], words], [1, 0]).sources) == 1
