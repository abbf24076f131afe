"""Training in bfloat16: loss and gradients of every family stay near those in float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from lossline import models
from lossline.ops.cross_entropy import linear_cross_entropy
from models.families import CONFIGS, make_model

# One rounding is 2**-9 = 0.2%. A width of 16 is the hard case, because few errors average out. The
# largest errors seen: 0.08% of the loss, 6% of the whole gradient, 18% of one parameter's gradient.
LOSS, GRADIENT, PARAMETER = 0.002, 0.1, 0.25
FAST = ("llama",)


def loss_and_gradients(config):
    graph, _ = models.abstract_state(config)
    _, state = make_model(dataclasses.replace(config, activation_dtype="float32"))  # cached
    tokens = jax.random.randint(jax.random.key(7), (2, 24), 0, config.vocab_size)
    ids = (jnp.arange(24) // 9)[None].repeat(2, axis=0)

    def loss(state):
        model = nnx.merge(graph, state)
        x_BxLxD = model.hidden(tokens, ids)
        assert x_BxLxD.dtype == config.dtype
        ce = linear_cross_entropy(x_BxLxD, model.unembedding(), tokens, z_loss=1e-2)
        return ce.total / tokens.size

    value, gradients = jax.jit(jax.value_and_grad(loss))(state)
    return float(value), [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(gradients)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in CONFIGS],
)
def test_bfloat16_stays_near_float32(name):
    exact, wanted = loss_and_gradients(CONFIGS[name])
    rounded, got = loss_and_gradients(
        dataclasses.replace(CONFIGS[name], activation_dtype="bfloat16")
    )
    assert 0 < abs(rounded - exact) < LOSS * exact
    norm = np.linalg.norm([np.linalg.norm(g) for g in wanted])
    errors = [np.linalg.norm(a - b) for a, b in zip(got, wanted, strict=True)]
    assert np.linalg.norm(errors) < GRADIENT * norm
    for error, gradient in zip(errors, wanted, strict=True):
        size = np.linalg.norm(gradient)
        assert error < PARAMETER * max(size, 1e-3 * norm)  # some are 0 except for rounding
