"""Batches: every token is a target once per epoch; batches are equal on all hosts and forever."""

from pathlib import Path

import numpy as np
import pytest

from lossline.batches.permutation import Permutation
from lossline.batches.plans import BatchPlan
from lossline.errors import UserError
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 17, 255, 256, 257, 10_007])
def test_permutation_is_a_bijection(size: int) -> None:
    permutation = Permutation(size, "fingerprint", 3)
    image = permutation(np.arange(size))
    np.testing.assert_array_equal(np.sort(image), np.arange(size))
    assert int(permutation(size - 1)) == image[-1]
    with pytest.raises(IndexError):
        permutation(size)


def test_permutations_shuffle_and_differ_by_key() -> None:
    size = 20_000
    first, second = (Permutation(size, "f", seed)(np.arange(size)) for seed in (0, 1))
    identity = np.arange(size)
    for other in (identity, second):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.03  # 4 standard errors
        assert (first == other).mean() < 10 / size
    neighbors = np.abs(np.diff(first))
    assert abs(neighbors.mean() / size - 1 / 3) < 0.02  # mean distance of two uniform draws


def test_permutation_equals_the_golden_value() -> None:
    """Change the golden value only together with all fingerprints: it is the data of old runs."""
    assert Permutation(1000, "fingerprint", 0, 0)(np.arange(5)).tolist() == GOLDEN


GOLDEN = [486, 430, 215, 7, 393]


def test_every_token_is_a_target_once_per_epoch(store: TokenStore) -> None:
    length, size = 8, 4
    plan = BatchPlan(store, context_length=length, batch_size=size, seed=5)
    windows = store.num_tokens // length
    rows = [plan.batch(k) for k in range(-(-windows // size))]
    targets = np.concatenate([batch.targets for batch in rows])[:windows]
    expected = store.read(0, windows * length).reshape(windows, length)
    np.testing.assert_array_equal(np.sort(targets, axis=0), np.sort(expected, axis=0))
    assert sorted(map(tuple, targets)) == sorted(map(tuple, expected))


def test_inputs_are_targets_shifted_by_one_token(store: TokenStore) -> None:
    stream = np.concatenate([[store.manifest.vocabulary.eos_id], store.read(0, store.num_tokens)])
    plan = BatchPlan(store, context_length=16, batch_size=64, seed=0)
    batch = plan.batch(0)
    np.testing.assert_array_equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    starts = plan.windows.order(np.arange(64)) * 16
    np.testing.assert_array_equal(batch.inputs, [stream[s : s + 16] for s in starts])
    assert batch.weights.dtype == np.float32 and (batch.weights == 1).all()
    assert batch.inputs.dtype == batch.targets.dtype == batch.segment_ids.dtype == np.int32


def test_segment_ids_number_the_documents_of_the_targets(store: TokenStore) -> None:
    eos = store.manifest.vocabulary.eos_id
    batch = BatchPlan(store, context_length=64, batch_size=32, seed=0).batch(0)
    assert (batch.segment_ids[:, 0] == 1).all()
    # A new segment starts exactly where the input is the eos of the previous document.
    begins = np.diff(batch.segment_ids, axis=1)
    np.testing.assert_array_equal(begins, (batch.inputs[:, 1:] == eos).astype(np.int32))
    assert begins.any()


def test_batch_is_equal_for_all_hosts(store: TokenStore) -> None:
    plan = BatchPlan(store, context_length=8, batch_size=6, seed=1)
    again = BatchPlan(TokenStore.open(store.location), context_length=8, batch_size=6, seed=1)
    for k in (0, 7, 1000):
        whole = plan.batch(k)
        for field in ("inputs", "targets", "weights", "segment_ids"):
            hosts = [getattr(again.batch(k, rows=slice(i, i + 2)), field) for i in (0, 2, 4)]
            np.testing.assert_array_equal(np.concatenate(hosts), getattr(whole, field))


def test_seed_epoch_and_fingerprint_change_the_order(store: TokenStore, tmp_path: Path) -> None:
    def order(source: TokenStore, seed: int, epoch: int) -> list[int]:
        plan = BatchPlan(source, context_length=8, batch_size=1, seed=seed)
        return plan.windows.order(
            np.arange(plan.windows.count) + epoch * plan.windows.count
        ).tolist()

    copy = write_store(
        tmp_path / "copy", [store.read(0, 900).astype(str).tolist()[0]] * 900, ByteVocabulary()
    )
    assert order(store, 0, 0) == order(store, 0, 0)
    assert len({tuple(order(store, *key)) for key in ((0, 0), (1, 0), (0, 1))}) == 3
    assert order(copy, 0, 0) != order(store, 0, 0)[: len(order(copy, 0, 0))]


def test_context_longer_than_the_store_is_refused(store: TokenStore) -> None:
    BatchPlan(store, context_length=store.num_tokens, batch_size=1, seed=0).batch(0)
    with pytest.raises(UserError, match=r"fewer than context_length"):
        BatchPlan(store, context_length=store.num_tokens + 1, batch_size=1, seed=0)
    with pytest.raises(UserError, match="Give at least 1"):
        BatchPlan(store, context_length=8, batch_size=0, seed=0)
