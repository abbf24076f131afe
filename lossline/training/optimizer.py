"""Optimizers: Optax update directions, decoupled and masked weight decay, a traced learning rate.

The update is p ← p - lr · (direction(g) + weight_decay · p): AdamW (arXiv:1711.05101) with the
weight decay scaled by the learning rate, as in Optax and PyTorch. ``lr`` and ``weight_decay`` are
arguments of the compiled step, so runs that differ only in them share one compilation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from lossline.errors import UserError

# The decay rates of a state space are log-spaced: pulling them to zero would change their meaning.
# The reference Mamba code marks the same parameters `_no_weight_decay`.
UNDECAYED_NAMES = frozenset({"log_decay"})


class Optimizer(Protocol):
    """Interface of an optimizer for the training step. ``family`` is the run's fact "optimizer"."""

    family: ClassVar[str]

    @property
    def learning_rate(self) -> float:
        """Peak learning rate; the schedule scales it."""
        ...

    @property
    def weight_decay(self) -> float:
        """Coefficient of the decoupled weight decay."""
        ...

    @property
    def clip_norm(self) -> float | None:
        """Largest global gradient norm; None does not clip."""
        ...

    def direction(self) -> optax.GradientTransformation:
        """Return the Optax transformation from gradients to update directions."""
        ...


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv:1711.05101).

    Attributes:
        learning_rate: peak learning rate; the schedule scales it.
        weight_decay: coefficient of the decay. 0 gives Adam.
        b1: decay rate of the first moment.
        b2: decay rate of the second moment.
        eps: added to the square root of the second moment, outside the root.
        clip_norm: gradients with a larger global norm are scaled down to it. None: no clipping.
    """

    family: ClassVar[str] = "adamw"
    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def direction(self) -> optax.GradientTransformation:
        """Return the Optax transformation from gradients to directions; float32 moments."""
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps, mu_dtype=jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Adam(AdamW):
    """Adam without weight decay (arXiv:1412.6980)."""

    family: ClassVar[str] = "adam"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if self.weight_decay:
            raise UserError(
                f"adam.weight_decay = {self.weight_decay}: Adam has no weight decay. Use @adamw()."
            )


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Attributes:
        learning_rate: peak learning rate; the schedule scales it.
        weight_decay: coefficient of the decoupled decay.
        momentum: coefficient of the momentum. 0 keeps no optimizer state.
        clip_norm: gradients with a larger global norm are scaled down to it. None: no clipping.
    """

    family: ClassVar[str] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def direction(self) -> optax.GradientTransformation:
        """Return the Optax transformation from gradients to update directions."""
        return optax.trace(self.momentum) if self.momentum else optax.identity()


def _check(options: AdamW | SGD) -> None:
    for name in ("learning_rate", "eps", "clip_norm", "weight_decay"):
        value = getattr(options, name, None)
        if value is None or 0 < value < math.inf or (name == "weight_decay" and value == 0):
            continue
        raise UserError(f"{options.family}.{name} = {value}: must be a finite number above 0")
    for name in ("b1", "b2", "momentum"):
        share = getattr(options, name, 0.0)
        if not 0 <= share < 1:
            raise UserError(f"{options.family}.{name} = {share}: must be at least 0 and below 1")


def decay_mask(axes: Any) -> Any:
    """Return which parameters decay: matrices and embeddings.

    Norms, biases and the A, D and time-step parameters of a state space do not decay.

    Args:
        axes: pytree of tuples of logical axis names (``lossline.models.logical_axes``).

    Returns:
        Pytree of bool.
    """

    def decays(path: tuple[Any, ...], names: tuple[str | None, ...]) -> bool:
        keys = [str(getattr(key, "key", getattr(key, "name", key))).lower() for key in path]
        # Scanned layers add a leading axis, which does not make a bias a matrix.
        inner = [name for name in names if name != "layers"]
        return len(inner) > 1 and "norm" not in inner and not UNDECAYED_NAMES.intersection(keys)

    return jax.tree_util.tree_map_with_path(
        decays, axes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


class Masters(NamedTuple):
    """Optimizer state with float32 copies of parameters that are stored in a narrower type.

    An update smaller than the rounding of a bfloat16 parameter would be lost; in the copies such
    updates add up.

    Attributes:
        moments: state of the Optax transformation.
        params: Float32 copies. The stored parameters are these, rounded.
    """

    moments: Any
    params: Any


def widened(tree: Any) -> Any:
    """Return the tree with every leaf in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def global_norm(tree: Any) -> jax.Array:
    """Return the square root of the sum of squares over all leaves, computed in float32."""
    return jnp.sqrt(
        sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
    )


def clip(gradients: Any, norm: jax.Array, largest: float | None) -> Any:
    """Return ``gradients`` of global norm ``norm``, scaled down to at most ``largest``."""
    if largest is None:
        return gradients
    scale = jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-16))  # the bound avoids 1 / 0
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients)


def apply(params: Any, direction: Any, *, lr: jax.Array, weight_decay: jax.Array, mask: Any) -> Any:
    """Return p - lr · (direction + weight_decay · p where masked), computed in float32."""

    def update(p: jax.Array, d: jax.Array, decays: bool) -> jax.Array:
        wide = p.astype(jnp.float32)
        full = d.astype(jnp.float32) + (weight_decay * wide if decays else 0.0)
        return (wide - lr * full).astype(p.dtype)

    return jax.tree.map(update, params, direction, mask)
