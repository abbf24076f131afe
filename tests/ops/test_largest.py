"""Exact selection: equal to a stable sort of the whole array, wherever and however it runs."""

import itertools
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from lossline.compilation import hlo
from lossline.compilation.collectives import collectives
from lossline.ops.largest import select_largest
from lossline.sharding import BATCH_AXES, MeshOptions, make_mesh

B, L = 8, 16


def reference(scores, candidates, count):
    """The definition: a stable sort of the candidates, largest first, in the order of positions."""
    scores = np.asarray(scores, np.float64).reshape(-1)
    places = np.flatnonzero(np.asarray(candidates).reshape(-1))
    chosen = places[np.argsort(-scores[places], kind="stable")[:count]]
    selected = np.zeros(scores.size, bool)
    selected[chosen] = True
    return selected.reshape(np.shape(candidates))


def planted(kind, rng, shape=(B, L)):
    """Return float32 scores of one kind."""
    scores = rng.normal(size=shape)
    if kind == "ties":
        scores = rng.integers(-2, 3, shape)
    if kind == "equal":
        scores = np.full(shape, -1.25)
    if kind == "zeros":
        scores = rng.choice([-1.0, -0.0, 0.0, 1.0], shape)
    if kind == "extremes":
        largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
        values = (np.inf, -np.inf, largest, -largest, smallest, -smallest, 0.0)
        scores = rng.choice(values, shape)
    return scores.astype(np.float32)


KINDS = ("different", "ties", "equal", "zeros", "extremes")


def inputs(kind, seed=0):
    """Return scores and candidates; elsewhere scores are huge, or NaN of either sign."""
    rng = np.random.default_rng(seed)
    candidates = rng.random((B, L)) < 0.7
    others = rng.choice([np.nan, -np.nan, np.inf, 3e38], (B, L)).astype(np.float32)
    return np.where(candidates, planted(kind, rng), others), candidates


def splits(devices):
    """Return every mesh of ``devices`` devices."""
    sizes = (1, 2, 4, 8)
    return [
        make_mesh(
            MeshOptions(data=d, fsdp=f, sequence=s, tensor=t), devices=jax.devices()[:devices]
        )
        for d, f, s, t in itertools.product(sizes, repeat=4)
        if d * f * s * t == devices
    ]


def place(mesh, *arrays):
    """Put rows over ``data`` and ``fsdp`` and columns over ``sequence``."""
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXES, "sequence"))
    return jax.device_put(arrays, sharding)


@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_a_stable_sort_for_every_count(kind):
    select = jax.jit(select_largest)
    for seed in range(3):
        scores, candidates = inputs(kind, seed)
        for count in (0, 1, 2, 5, 17, 40, 60, candidates.sum() - 1, candidates.sum()):
            found = np.asarray(select(scores, candidates, np.int32(count)))
            np.testing.assert_array_equal(found, reference(scores, candidates, count))
            assert found.sum() == count


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_chosen_by_themselves(kind):
    scores, candidates = inputs(kind)
    counts = np.array([0, 1, 3, 5, 7, 2, *candidates[6:].sum(1)], np.int32)
    found = jax.jit(partial(select_largest, per_row=True))(scores, candidates, counts)
    rows = zip(scores, candidates, counts, strict=True)
    np.testing.assert_array_equal(found, np.stack([reference(*row) for row in rows]))


def test_more_than_there_are_is_all_candidates():
    scores, candidates = inputs("ties")
    np.testing.assert_array_equal(
        jax.jit(select_largest)(scores, candidates, np.int32(B * L)), candidates
    )
    nothing = np.zeros_like(candidates)
    assert not jax.jit(select_largest)(scores, nothing, np.int32(0)).any()


def test_equal_scores_at_the_last_positions():
    """Positions are integers: in float32, neighbours above 2²⁴ would be equal."""
    scores, candidates = inputs("equal")
    select = jax.jit(partial(select_largest, first=2**31 - B * L))
    for count in (0, 1, 30, candidates.sum()):
        found = select(scores, candidates, np.int32(count))
        np.testing.assert_array_equal(found, reference(scores, candidates, count))


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_the_choice_is_the_same_on_every_mesh(devices):
    for mesh in splits(devices):
        with jax.set_mesh(mesh):
            select, rows = jax.jit(select_largest), jax.jit(partial(select_largest, per_row=True))
            for kind in KINDS:
                scores, candidates = inputs(kind)
                found = select(*place(mesh, scores, candidates), np.int32(41))
                np.testing.assert_array_equal(found, reference(scores, candidates, 41), str(mesh))
                counts = candidates.sum(1, dtype=np.int32) // 2
                found = rows(*place(mesh, scores, candidates), counts)
                expected = map(reference, scores, candidates, counts)
                np.testing.assert_array_equal(found, np.stack(list(expected)), str(mesh))


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_it_can_run_inside_a_scan(devices):
    cases = [inputs(kind) for kind in KINDS]
    stacked = tuple(np.stack(arrays) for arrays in zip(*cases, strict=True))

    def every(scores, candidates):
        step = lambda _, case: (None, select_largest(*case, jnp.int32(30)))  # noqa: E731
        return lax.scan(step, None, (scores, candidates))[1]

    for mesh in splits(devices):
        spec = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES, "sequence"))
        with jax.set_mesh(mesh):
            found = jax.jit(every)(*jax.device_put(stacked, spec))
        for selected, case in zip(found, cases, strict=True):
            np.testing.assert_array_equal(selected, reference(*case, 30))


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize("check_vma", [False, True])
def test_under_shard_map_the_axis_and_the_first_position_are_given(devices, check_vma):
    mesh = make_mesh(MeshOptions(data=devices), devices=jax.devices()[:devices])
    rows, whole = PartitionSpec("data"), PartitionSpec()

    def local(scores, candidates, count):
        first = lax.axis_index("data") * scores.size
        return select_largest(scores, candidates, count, over="data", first=first)

    mapped = jax.jit(
        jax.shard_map(
            local, mesh=mesh, in_specs=(rows, rows, whole), out_specs=rows, check_vma=check_vma
        )
    )
    per_row = jax.jit(
        jax.shard_map(
            partial(select_largest, per_row=True, over="data"),
            mesh=mesh, in_specs=rows, out_specs=rows, check_vma=check_vma,
        )
    )  # fmt: skip
    for kind in KINDS:
        scores, candidates = inputs(kind)
        found = mapped(scores, candidates, np.int32(41))
        np.testing.assert_array_equal(found, reference(scores, candidates, 41))
        counts = candidates.sum(1, dtype=np.int32) // 2
        expected = np.stack(list(map(reference, scores, candidates, counts)))
        np.testing.assert_array_equal(per_row(scores, candidates, counts), expected)


def test_no_gradient_flows_through_the_choice():
    scores, candidates = inputs("different")
    scores = np.where(candidates, scores, 0)

    def chosen(scores):
        return jnp.sum(select_largest(scores, candidates, jnp.int32(9)) * scores**2)

    selected = reference(scores, candidates, 9)
    np.testing.assert_allclose(jax.jit(jax.grad(chosen))(scores), selected * 2 * scores)


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_devices_exchange_only_scalars(devices):
    for mesh in splits(devices):
        arrays = place(mesh, *inputs("ties"))
        with jax.set_mesh(mesh):
            lowered = jax.jit(select_largest).lower(*arrays, np.int32(41))
        text = lowered.compile().as_text()
        rows = collectives(
            hlo.Program.parse(text), tuple(mesh.shape.values()), tuple(mesh.axis_names)
        )
        assert {row.kind for row in rows} <= {"all-reduce"}, mesh
        # 32 counts, 2 for the equal ones, and 32 more in the branch that chooses among these. Each
        # sends 4 bytes at most twice; XLA may add along the rows first and then along the columns.
        split = sum(mesh.shape[axis] > 1 for axis in mesh.axis_names)
        assert sum(row.wire_bytes for row in rows) <= 66 * 4 * 2 * split, mesh
        assert not re.search(
            r"all-gather|all-to-all|collective-permute|\bsort\(|top-?k", text, re.I
        )
        for shape in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
            assert set(re.findall(r"\[([\d,]*)\]", shape)) == {""}, shape


def test_one_device_needs_no_sort_either():
    text = jax.jit(select_largest).lower(*inputs("ties"), np.int32(3)).compile().as_text()
    assert "sort(" not in text and "all-reduce" not in text
