"""State-space duality, the layer of Mamba-2 (Dao & Gu, 2405.21060).

    h[t] = exp(dt[t] a) h[t-1] + dt[t] x[t] b[t]ᵀ    per head, a [P, N] state; 0 before a document
    y[t] = h[t] c[t]

The decay is one number per head and position, so that a chunk of Q positions is a masked
attention: y = (c bᵀ ∘ decay) (dt x), plus what the state before the chunk contributes.

``implementation``:
    "sequential"  the definition as one ``lax.scan`` over positions, autodiff gradients.
    "chunked"     section 6 of the paper: matrix products within chunks, one short scan over the
                  chunks' states. The backward recomputes the [Q, Q] tensors; what is kept is the
                  inputs and one state per chunk.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossline.errors import UserError
from lossline.ops.backend import BACKENDS, choose, target_backend

IMPLEMENTATIONS = {"sequential": BACKENDS, "chunked": BACKENDS}
CPU_CHUNK = 64
ACCELERATOR_CHUNK = 256


def state_space_duality(
    x_BxLxHxP: jax.Array,
    dt_BxLxH: jax.Array,
    a_H: jax.Array,
    b_BxLxGxN: jax.Array,
    c_BxLxGxN: jax.Array,
    *,
    keep_BxL: jax.Array | None = None,
    implementation: str = "auto",
    chunk: int | None = None,
) -> jax.Array:
    """Runs the recurrence above; decays, states and sums are float32 whatever the inputs' dtypes.

    Args:
        x_BxLxHxP: inputs; "chunked" multiplies matrices in this dtype, accumulating in float32.
        dt_BxLxH: step sizes, positive.
        a_H: negative decay rates.
        b_BxLxGxN, c_BxLxGxN: input and output maps; head h uses those of group ``h // (H / G)``.
        keep_BxL: 0 (or False) where the state before is forgotten (a document begins), else 1.
        implementation: one of ``IMPLEMENTATIONS``; "auto" is "chunked".
        chunk: positions per chunk of "chunked", any length works; None: 64 on CPU, else 256.

    Returns:
        y [B, L, H, P] in float32.

    Raises:
        UserError: G does not divide H, or an unknown implementation.
    """
    if implementation == "auto":
        implementation = "chunked"
    choose("state-space duality", implementation, IMPLEMENTATIONS)
    H, G = x_BxLxHxP.shape[2], b_BxLxGxN.shape[2]
    if H % G:
        raise UserError(f"state-space duality: {G} groups of maps do not divide {H} heads")
    if implementation == "sequential":
        if keep_BxL is None:
            keep_BxL = jnp.ones(x_BxLxHxP.shape[:2], jnp.float32)
        inputs = (x_BxLxHxP, dt_BxLxH, a_H, b_BxLxGxN, c_BxLxGxN, keep_BxL)
        return sequential(*(x.astype(jnp.float32) for x in inputs))
    if chunk is None:
        chunk = CPU_CHUNK if target_backend() == "cpu" else ACCELERATOR_CHUNK
    return _chunked(x_BxLxHxP, dt_BxLxH, a_H, b_BxLxGxN, c_BxLxGxN, keep_BxL, chunk)


def sequential(
    x: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, keep: jax.Array
) -> jax.Array:
    """The definition, one position after the other, in the inputs' dtype (float64 inputs stay
    float64).
    """
    heads = x.shape[2] // b.shape[2]
    b, c = (jnp.repeat(m, heads, axis=2) for m in (b, c))

    def step(h_BxHxPxN: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        x_BxHxP, dt_BxH, b_BxHxN, c_BxHxN, keep_B = inputs
        decay_BxH = jnp.exp(dt_BxH * a) * keep_B[:, None]
        step_input = (dt_BxH[:, :, None] * x_BxHxP)[..., None] * b_BxHxN[:, :, None]
        h_BxHxPxN = decay_BxH[..., None, None] * h_BxHxPxN + step_input
        return h_BxHxPxN, jnp.sum(h_BxHxPxN * c_BxHxN[:, :, None], axis=3)

    h0 = jnp.zeros((*x.shape[:1], *x.shape[2:], b.shape[3]), x.dtype)
    _, y_LxBxHxP = lax.scan(step, h0, tuple(v.swapaxes(0, 1) for v in (x, dt, b, c, keep)))
    return y_LxBxHxP.swapaxes(0, 1)


class _Chunks(NamedTuple):
    """Inputs cut into C chunks of Q positions; heads as G groups of M, before the positions.

    Attributes:
        x: [B, C, G, M, Q, P], in the dtype of the products.
        dt: [B, C, G, M, Q], float32.
        elapsed: log decay from the chunk's (or its document's) beginning through each position, as
            dt; at most 0.
        b, c: [B, C, G, Q, N], in the dtype of the products.
        run: [B, C, Q] document at each position, counted from the chunk's beginning: 0 for the one
            that goes on from the chunk before. None: every row is one document.
    """

    x: jax.Array
    dt: jax.Array
    elapsed: jax.Array
    b: jax.Array
    c: jax.Array
    run: jax.Array | None


def _chunked(x, dt, a, b, c, keep, chunk: int) -> jax.Array:
    B, L, H, P = x.shape
    G, N = b.shape[2:]
    Q = min(chunk, L)
    padding = -L % Q

    def by_chunk(v: jax.Array, *tail: int) -> jax.Array:
        # a padded position has dt = 0: decay 1, no input, so the state passes through unchanged
        v = jnp.pad(v, ((0, 0), (0, padding)) + ((0, 0),) * (v.ndim - 2))
        return v.reshape(B, (L + padding) // Q, Q, *tail)

    run = None if keep is None else jnp.cumsum(by_chunk(1 - keep.astype(jnp.int32)), axis=2)
    dt_BxCxGxMxQ = by_chunk(dt.astype(jnp.float32), G, H // G).transpose(0, 1, 3, 4, 2)
    log_decay = dt_BxCxGxMxQ * a.astype(jnp.float32).reshape(G, H // G, 1)
    chunks = _Chunks(
        x=by_chunk(x, G, H // G, P).transpose(0, 1, 3, 4, 2, 5),
        dt=dt_BxCxGxMxQ,
        elapsed=_elapsed(log_decay, run),
        b=by_chunk(b.astype(x.dtype), G, N).swapaxes(2, 3),
        c=by_chunk(c.astype(x.dtype), G, N).swapaxes(2, 3),
        run=run,
    )
    y_BxCxGxMxQxP = _from_before(chunks, _states_before(chunks)) + _within(chunks)
    return y_BxCxGxMxQxP.transpose(0, 1, 4, 2, 3, 5).reshape(B, L + padding, H, P)[:, :L]


_recomputed = partial(jax.checkpoint, policy=jax.checkpoint_policies.nothing_saveable)


@_recomputed
def _elapsed(log_decay_BxCxGxMxQ: jax.Array, run: jax.Array | None) -> jax.Array:
    """``_Chunks.elapsed``: a masked product rather than a running sum less that of the document's
    beginning, so that neither the value nor the gradient of a document knows of another, not even
    by rounding.
    """
    past = _past(run, log_decay_BxCxGxMxQ.shape[-1]).astype(jnp.float32)
    return jnp.einsum(
        "...ij,...j->...i", past, log_decay_BxCxGxMxQ, precision=lax.Precision.HIGHEST
    )


@_recomputed
def _within(chunks: _Chunks) -> jax.Array:
    """What the inputs of a chunk contribute to its outputs: [B, C, G, M, Q, P]."""
    exponent = chunks.elapsed[..., :, None] - chunks.elapsed[..., None, :]
    past = _past(chunks.run, chunks.elapsed.shape[-1])
    decay = jnp.exp(jnp.where(past, exponent, -jnp.inf))
    scores = _einsum("bcgin,bcgjn->bcgij", chunks.c, chunks.b)
    weights = scores[:, :, :, None] * decay * chunks.dt[..., None, :]
    return _einsum("bcgmij,bcgmjp->bcgmip", weights.astype(chunks.x.dtype), chunks.x)


def _states_before(chunks: _Chunks) -> jax.Array:
    """The state before each chunk: [B, C, G, M, P, N]."""
    added = _states_added(chunks)
    kept = jnp.exp(chunks.elapsed[..., -1])
    if chunks.run is not None:
        kept = jnp.where(_heads(chunks.run)[..., -1] == 0, kept, 0)

    def step(state: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        kept, added = inputs
        return kept[..., None, None] * state + added, state

    inputs = (kept.swapaxes(0, 1), added.swapaxes(0, 1))
    _, before = lax.scan(step, jnp.zeros_like(added[:, 0]), inputs)
    return before.swapaxes(0, 1)


@_recomputed
def _states_added(chunks: _Chunks) -> jax.Array:
    """What each chunk adds to the state at its end: [B, C, G, M, P, N]."""
    exponent = chunks.elapsed[..., -1:] - chunks.elapsed
    if chunks.run is not None:
        run = _heads(chunks.run)
        exponent = jnp.where(run == run[..., -1:], exponent, -jnp.inf)
    weighted = chunks.x * (jnp.exp(exponent) * chunks.dt)[..., None]
    return _einsum("bcgmqp,bcgqn->bcgmpn", weighted.astype(chunks.x.dtype), chunks.b)


@_recomputed
def _from_before(chunks: _Chunks, before: jax.Array) -> jax.Array:
    """What the state before a chunk contributes to its outputs: [B, C, G, M, Q, P]."""
    decay = jnp.exp(chunks.elapsed)
    if chunks.run is not None:
        decay = jnp.where(_heads(chunks.run) == 0, decay, 0)
    y = _einsum("bcgqn,bcgmpn->bcgmqp", chunks.c, before.astype(chunks.c.dtype))
    return y * decay[..., None]


def _past(run_BxCxQ: jax.Array | None, Q: int) -> jax.Array:
    """Whether column j is at or before row i in the same document: [B, C, 1, 1, Q, Q] or [Q, Q]."""
    past = jnp.tril(jnp.ones((Q, Q), bool))
    if run_BxCxQ is None:
        return past
    run = _heads(run_BxCxQ)
    return past & (run[..., :, None] == run[..., None, :])


def _heads(run_BxCxQ: jax.Array) -> jax.Array:
    return run_BxCxQ[:, :, None, None]


def _einsum(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
