"""Logits of a converted model, for comparison with an independent implementation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lossline import models


def logits_of(config, params, tokens):
    """Return float32 [L, V] for tokens [L]."""
    graph, state = models.abstract_state(dataclasses.replace(config, activation_dtype="float32"))
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, params))
    logits = jax.jit(lambda state, tokens: nnx.merge(graph, state)(tokens))
    return np.asarray(logits(state, jnp.asarray(tokens)[None])[0])
