"""Token values: equal to an independent forward pass, whatever the rows, rules and devices."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from evaluation.small_runs import LLAMA, MAMBA, SHAPE, TEXTS, corrupt, make_run
from lossline.batches.plans import Windows
from lossline.errors import UserError
from lossline.evaluation.restoring import MeasurementFailed, RunModel
from lossline.evaluation.token_values import TokenMeasurer
from lossline.models import GPTConfig
from lossline.runs.restoring import load_model
from lossline.sharding import MeshOptions, make_mesh, make_rules
from lossline.stores.store_writer import write_store
from lossline.vocabularies import ByteVocabulary

L = 16
BOTH = ("nats", "entropy")


def measurer(run, *, devices=1, batch_size=8, mesh=None):
    """Return a measurer on some of the virtual devices, and the parameters of step 2."""
    placed = make_mesh(mesh or MeshOptions(), devices=jax.devices()[:devices])
    model = RunModel(run, activations="float32", mesh=placed, rules=make_rules())
    [(_, state)] = model.states([2])
    return TokenMeasurer(model, batch_size=batch_size), state


def definition(run, inputs, targets, segment_ids):
    """Return nats and entropy from the float64 log-softmax of all logits of the model."""
    logits = load_model(run, 2)(
        jnp.asarray(inputs), None if segment_ids is None else jnp.asarray(segment_ids)
    )
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    logp = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    nats = -np.take_along_axis(logp, targets[..., None], -1)[..., 0]
    return {"nats": nats, "entropy": -(np.exp(logp) * logp).sum(-1)}


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    store = write_store(tmp_path_factory.mktemp("text") / "store", TEXTS * 2, ByteVocabulary())
    windows = Windows(store, context_length=L, seed=0)
    return windows.read(np.arange(windows.count))


@pytest.fixture(scope="module", params=[LLAMA, MAMBA], ids=["llama", "mamba"])
def run(request, tmp_path_factory):
    config = replace(request.param, activation_dtype="float32")
    return make_run(tmp_path_factory.mktemp("runs") / "a", config, steps=(2,))


@pytest.mark.parametrize("documents", ["joined", "separate"])
def test_values_equal_an_independent_forward_pass(run, rows, documents):
    segments = rows.segment_ids if documents == "separate" else None
    measured, state = measurer(run)
    got = measured.measure(state, rows.inputs, rows.targets, segments, BOTH)
    want = definition(run, rows.inputs, rows.targets, segments)
    assert len(rows.inputs) % 8  # so the last batch is padded
    for name in BOTH:
        assert got[name].dtype == np.float32 and got[name].shape == rows.targets.shape
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-5)


def test_the_document_rules_differ(run, rows):
    measured, state = measurer(run)
    joined, separate = (
        measured.measure(state, rows.inputs, rows.targets, segments)["nats"]
        for segments in (None, rows.segment_ids)
    )
    first = rows.segment_ids == 1  # the first document of a window has nothing before it
    np.testing.assert_allclose(joined[first], separate[first], rtol=2e-5, atol=2e-5)
    assert np.abs(joined - separate)[~first].max() > 1e-2


@pytest.mark.parametrize(
    ("devices", "mesh"),
    [(2, {}), (4, {"fsdp": 2}), (8, {"data": 2, "fsdp": 2, "tensor": 2}), (8, {})],
)
def test_values_do_not_depend_on_the_devices(run, rows, devices, mesh):
    one, state = measurer(run)
    want = one.measure(state, rows.inputs, rows.targets, rows.segment_ids, BOTH)
    many, state = measurer(run, devices=devices, mesh=MeshOptions(**mesh))
    got = many.measure(state, rows.inputs, rows.targets, rows.segment_ids, BOTH)
    for name in BOTH:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=2e-5)


def test_nats_alone_are_those_measured_with_the_entropy(run, rows):
    measured, state = measurer(run, batch_size=5)
    arguments = (rows.inputs, rows.targets, None)
    both = measured.measure(state, *arguments, BOTH)
    [nats] = measured.measure(state, *arguments, ("nats",)).values()
    np.testing.assert_allclose(nats, both["nats"], rtol=1e-6, atol=1e-6)
    [entropy] = measured.measure(state, *arguments, ("entropy",)).values()
    np.testing.assert_array_equal(entropy, both["entropy"])


def test_a_wrong_quantity_and_no_rows(run, rows):
    measured, state = measurer(run)
    with pytest.raises(ValueError, match="quantities"):
        measured.measure(state, rows.inputs, rows.targets, None, ("bits",))
    empty = measured.measure(state, rows.inputs[:0], rows.targets[:0], None)
    assert empty["nats"].shape == (0, L)


def test_a_damaged_checkpoint_is_a_failed_measurement(tmp_path, rows):
    run = make_run(tmp_path / "a", LLAMA, steps=(2,))
    corrupt(run, 2)
    measured, state = measurer(run)
    with pytest.raises(MeasurementFailed, match="corrupt"):
        measured.measure(state, rows.inputs, rows.targets, None)


def test_learned_positions_bound_the_length(tmp_path):
    gpt = make_run(tmp_path / "gpt", GPTConfig(**SHAPE, heads=2, mlp_width=24), steps=(2,))
    measured, _ = measurer(gpt)
    measured.require_length(32, where="token_scores.context_length")
    with pytest.raises(UserError, match=r"token_scores.context_length = 33: .* only 32 learned"):
        measured.require_length(33, where="token_scores.context_length")
