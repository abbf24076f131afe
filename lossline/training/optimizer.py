"""Optimizers: Optax directions, decoupled weight decay with a mask, one traced learning rate.

The update is p ← p − lr · (direction(g) + weight_decay · p): AdamW as in arXiv:1711.05101, with the
decay scaled by the learning rate as Optax and PyTorch do. ``lr`` and ``weight_decay`` enter as
arguments: two runs that differ in them share one compilation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from lossline.errors import UserError

# Log-spaced state-space parameters and their skips have a meaning at their own scale; the reference
# Mamba code marks the same ones `_no_weight_decay`.
UNDECAYED_NAMES = frozenset({"log_decay"})


class Optimizer(Protocol):
    """What the training step needs of an optimizer; ``family`` is the run's fact "optimizer"."""

    family: ClassVar[str]

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def clip_norm(self) -> float | None: ...

    def direction(self) -> optax.GradientTransformation: ...


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay.

    Attributes:
        learning_rate: peak; the schedule scales it.
        weight_decay: 0 makes it Adam.
        b1, b2, eps: as in the paper. ``eps`` stands outside the square root.
        clip_norm: gradients of a larger global norm are scaled down to it; None does not clip.
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
        """Gradient -> step direction; both moments in float32."""
        return optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps, mu_dtype=jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Adam(AdamW):
    """Adam without weight decay (arXiv:1412.6980)."""

    family: ClassVar[str] = "adam"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check(self)
        if self.weight_decay:
            raise UserError(f"adam.weight_decay = {self.weight_decay}: Adam has none; use @adamw()")


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Attributes:
        learning_rate, weight_decay, clip_norm: as in AdamW.
        momentum: 0 keeps no state.
    """

    family: ClassVar[str] = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 0.0
    momentum: float = 0.9
    clip_norm: float | None = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def direction(self) -> optax.GradientTransformation:
        """Gradient -> step direction."""
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
            raise UserError(f"{options.family}.{name} = {share}: must be from 0 to below 1")


def decay_mask(axes: Any) -> Any:
    """Which parameters decay: matrices and embeddings; never norms, biases, or a state space's A, D
    and time step.

    Args:
        axes: pytree of tuples of logical axis names (``lossline.models.logical_axes``).

    Returns:
        pytree of bool.
    """

    def decays(path: tuple[Any, ...], names: tuple[str | None, ...]) -> bool:
        keys = [str(getattr(key, "key", getattr(key, "name", key))).lower() for key in path]
        inner = [name for name in names if name != "layers"]
        return len(inner) > 1 and "norm" not in inner and not UNDECAYED_NAMES.intersection(keys)

    return jax.tree_util.tree_map_with_path(
        decays, axes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )


class Masters(NamedTuple):
    """Optimizer state of parameters that are stored in less than float32: updates smaller than a
    rounding of theirs add up in float32 copies.

    Attributes:
        moments: as without copies.
        params: the copies, which the stored parameters are rounded from.
    """

    moments: Any
    params: Any


def widened(tree: Any) -> Any:
    """Every leaf in float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def global_norm(tree: Any) -> jax.Array:
    """√(sum of squares) over all leaves, in float32 whatever their type."""
    return jnp.sqrt(
        sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(tree))
    )


def clip(gradients: Any, norm: jax.Array, largest: float | None) -> Any:
    """Scales ``gradients`` of global norm ``norm`` down to ``largest``."""
    if largest is None:
        return gradients
    scale = jnp.minimum(1.0, largest / jnp.maximum(norm, 1e-16))
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), gradients)


def apply(params: Any, direction: Any, *, lr: jax.Array, weight_decay: jax.Array, mask: Any) -> Any:
    """p − lr · (direction + weight_decay · p where masked), computed in float32."""

    def update(p: jax.Array, d: jax.Array, decays: bool) -> jax.Array:
        wide = p.astype(jnp.float32)
        full = d.astype(jnp.float32) + (weight_decay * wide if decays else 0.0)
        return (wide - lr * full).astype(p.dtype)

    return jax.tree.map(update, params, direction, mask)
