"""Our update against Optax's AdamW, and the mask of weight decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lossline.errors import UserError
from lossline.models import abstract_state, logical_axes
from lossline.training import optimizer
from lossline.training.optimizer import SGD, Adam, AdamW


def updates(options, params, gradients, rates, mask):
    """Return the parameters after our updates with ``gradients``."""
    transform = options.direction()
    state = transform.init(params)
    for g, lr in zip(gradients, rates, strict=True):
        g = optimizer.clip(g, optimizer.global_norm(g), options.clip_norm)
        direction, state = transform.update(g, state, params)
        decay = jnp.float32(options.weight_decay)
        params = optimizer.apply(
            params, direction, lr=jnp.float32(lr), weight_decay=decay, mask=mask
        )
    return params


@pytest.fixture
def problem():
    generator = np.random.default_rng(0)
    params = {"w": jnp.asarray(generator.normal(size=(5, 3)), jnp.float32), "b": jnp.ones(3)}

    def fresh(scale):
        return {
            name: jnp.asarray(generator.normal(size=p.shape) * scale, jnp.float32)
            for name, p in params.items()
        }

    gradients = [fresh(scale) for scale in (1, 30, 0.01, 1, 1)]  # one clipped hard, one not at all
    return params, gradients, [0.1, 0.1, 0.05, 0.02, 0.01]


@pytest.mark.parametrize("clip", [1.0, None])
def test_adamw_equals_optax(problem, clip):
    params, gradients, rates = problem
    options = AdamW(weight_decay=0.1, b1=0.8, b2=0.9, eps=1e-6, clip_norm=clip)
    mask = {"w": True, "b": False}
    reference = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        optax.adamw(
            lambda k: jnp.asarray(rates)[k], b1=0.8, b2=0.9, eps=1e-6, weight_decay=0.1, mask=mask
        ),
    )
    expected, state = params, reference.init(params)
    for g in gradients:
        step, state = reference.update(g, state, expected)
        expected = optax.apply_updates(expected, step)
    found = updates(options, params, gradients, rates, mask)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), found, expected)


def test_sgd_equals_hand_computation(problem):
    params, gradients, _ = problem
    found = updates(
        SGD(momentum=0.5, clip_norm=None),
        params,
        gradients[:2],
        [0.1, 0.1],
        {"w": False, "b": False},
    )
    first, second = (np.asarray(g["b"]) for g in gradients[:2])
    expected = np.asarray(params["b"]) - 0.1 * first - 0.1 * (second + 0.5 * first)
    np.testing.assert_allclose(found["b"], expected, rtol=1e-6)


def undecayed(model):
    axes = nnx.to_pure_dict(logical_axes(abstract_state(model)[1]))
    mask = optimizer.decay_mask(axes)
    flat, _ = jax.tree_util.tree_flatten_with_path(mask)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, decays in flat
        if not decays
    }


def test_norms_biases_and_state_space_parameters_do_not_decay(models):
    norms = {"final_norm/scale"}
    assert undecayed(models["llama"]) == norms | {
        "blocks/attention_norm/scale",
        "blocks/mlp_norm/scale",
    }
    mixer = {f"blocks/mixer/{name}" for name in ("conv_bias", "step_bias", "log_decay", "skip")}
    assert undecayed(models["mamba"]) == norms | mixer | {"blocks/norm/scale"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdamW(learning_rate=-1), "adamw.learning_rate"),
        (lambda: AdamW(learning_rate=float("nan")), "adamw.learning_rate"),
        (lambda: AdamW(clip_norm=0), "adamw.clip_norm"),
        (lambda: AdamW(weight_decay=-0.1), "adamw.weight_decay"),
        (lambda: AdamW(b2=1.0), "adamw.b2"),
        (lambda: Adam(weight_decay=0.1), "Adam has no weight decay"),
        (lambda: SGD(momentum=-0.1), "sgd.momentum"),
    ],
)
def test_wrong_options_raise_user_error(make, message):
    with pytest.raises(UserError, match=message):
        make()
