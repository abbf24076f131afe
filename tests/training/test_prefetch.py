"""Batches built ahead: right order, only the needed rows, errors reach the consumer."""

import threading

import jax
import numpy as np
import pytest

from lossline.batches.plans import Batch, BatchPlan
from lossline.sharding import MeshOptions, batch_sharding, make_mesh
from lossline.training.prefetch import place_batch, prefetched


def test_batches_come_in_order_and_at_most_depth_ahead():
    made = []
    batches = prefetched(lambda k: made.append(k) or k, start=3, stop=20, depth=2)
    assert next(batches) == 3
    assert list(batches) == list(range(4, 20)) and made == list(range(3, 20))


def test_error_is_raised_at_its_batch():
    def make(k):
        if k == 2:
            raise OSError("unreadable")
        return k

    batches = prefetched(make, start=0, stop=5)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(OSError, match="unreadable"):
        next(batches)


def test_closing_the_generator_ends_the_thread():
    batches = prefetched(lambda k: k, start=0, stop=10**9)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name == "batches"]


@pytest.mark.parametrize(
    "mesh",
    [MeshOptions(data=8), MeshOptions(data=2, fsdp=2, tensor=2), MeshOptions(data=1, tensor=8)],
)
def test_placed_batch_equals_the_batch_read(store, mesh):
    plan = BatchPlan(store, context_length=16, batch_size=8, seed=0)
    sharding = batch_sharding(make_mesh(mesh))
    placed = place_batch(
        plan, 3, batch_size=8, sharding=sharding, names=("inputs", "targets", "weights")
    )
    expected = plan.batch(3)
    for name, array in placed.items():
        np.testing.assert_array_equal(array, getattr(expected, name))
        assert array.sharding.is_equivalent_to(sharding, 2)


def test_only_rows_of_addressable_devices_are_read():
    """Pretend that half of the mesh's devices belong to another process."""
    asked = []

    class Plan:
        def batch(self, k, rows):
            asked.append((k, rows))
            zeros = np.zeros((rows.stop - rows.start, 4), np.int32)
            return Batch(inputs=zeros, targets=zeros, weights=zeros, segment_ids=zeros)

    mesh = make_mesh(MeshOptions(data=1), devices=jax.devices()[:1])
    place_batch(Plan(), 5, batch_size=6, sharding=batch_sharding(mesh), names=("inputs",))
    assert asked == [(5, slice(0, 6))]
