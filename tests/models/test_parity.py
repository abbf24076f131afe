"""Parity with ``transformers`` to 1e-4: logits, and the gradient of every parameter.

The peers are the file that make_golden.py recorded, and the library itself where it is installed.
The models are read as Hugging Face folders, so names and layouts are tested too.
"""

import dataclasses
import functools
import importlib.util
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from lossline import models
from lossline.conversion import read_model
from lossline.ops.attention import WINDOWED
from lossline.ops.cross_entropy import linear_cross_entropy
from models.make_golden import CASES, GOLDEN, read_golden, record

TOLERANCE = 1e-4  # relative to the norm of each tensor, float32 on both sides
IMPLEMENTATIONS = {
    "attention_implementation": ("reference", "xla", "blocked"),
    "scan_implementation": ("sequential", "chunked"),
}
LIVE_SEED = 21  # differs from the seed of the recorded weights and tokens

golden = functools.cache(read_golden)


def option_of(name):
    mamba = CASES[name].model_type.startswith("mamba")
    return "scan_implementation" if mamba else "attention_implementation"


def implementations(name):
    choices = IMPLEMENTATIONS[option_of(name)]
    windowed = CASES[name].options.get("sliding_window")
    return [choice for choice in choices if not windowed or choice in WINDOWED]


def read(config, tensors):
    """Return lossline's configuration and parameters for a Hugging Face folder of these tensors."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        save_file(tensors, Path(folder) / "model.safetensors")
        return read_model(folder)


def ours(config, params, tokens):
    """Return logits and gradients of the mean cross-entropy, as in training."""
    graph, state = models.abstract_state(config)
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    @jax.jit
    def logits_and_gradients(state):
        def loss(state):
            model = nnx.merge(graph, state)
            cross_entropy = linear_cross_entropy(model.hidden(inputs), model.unembedding(), targets)
            return cross_entropy.total / targets.size

        return nnx.merge(graph, state)(inputs), jax.grad(loss)(state)

    logits, gradients = logits_and_gradients(state)
    return np.asarray(logits), nnx.to_pure_dict(gradients)


def by_layer(tree):
    """Yield each parameter with its path; stacked parameters layer by layer."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        name = "/".join(key.key for key in path)
        layers = enumerate(leaf) if name.startswith("blocks/") else [("", leaf)]
        for layer, array in layers:
            yield f"{name} {layer}", np.asarray(array, np.float64)


def assert_parity(peer, option, implementation):
    config, params = read(peer.config, peer.weights)
    config = dataclasses.replace(config, activation_dtype="float32", **{option: implementation})
    logits, gradients = ours(config, params, peer.tokens)
    assert np.linalg.norm(logits - peer.logits) <= TOLERANCE * np.linalg.norm(peer.logits)
    wanted = dict(by_layer(read(peer.config, peer.gradients)[1]))
    # The bias of a key does not change the softmax: its gradient is 0 except for rounding.
    least = 1e-3 * max(np.linalg.norm(array) for array in wanted.values())
    for name, got in by_layer(gradients):
        error, scale = np.linalg.norm(got - wanted[name]), np.linalg.norm(wanted[name])
        assert error <= TOLERANCE * max(scale, least), f"{name}: {error:.1e} of {scale:.1e}"


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, choice) for name in CASES for choice in implementations(name)],
)
def test_logits_and_gradients_match_the_recorded_ones(name, implementation):
    assert_parity(golden()[name], option_of(name), implementation)


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_match_the_installed_transformers(name):
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (versions: see make_golden.py)")
    default = implementations(name)[-1]
    assert_parity(record(CASES[name], LIVE_SEED), option_of(name), default)


def test_the_golden_file_has_exactly_these_cases():
    """If it fails because ``CASES`` changed, run make_golden.py."""
    assert list(golden()) == list(CASES)
    assert GOLDEN.stat().st_size < 420 * 2**10
    for name, case in CASES.items():
        peer = golden()[name]
        assert peer.config["model_type"] == case.model_type
        assert peer.tokens.shape[1] == case.length + 1
        assert peer.logits.shape == (*peer.tokens[:, 1:].shape, case.options["vocab_size"])
