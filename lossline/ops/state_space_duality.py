"""State-space duality, the layer of Mamba-2 (Dao & Gu, 2405.21060).

    h[t] = exp(dt[t] a) h[t-1] + dt[t] x[t] b[t]ᵀ    per head, a [P, N] state; 0 before a document
    y[t] = h[t] c[t]

The decay is one number per head and position, so that a chunk of Q positions is a masked
attention: y = (c bᵀ ∘ decay) (dt x), plus what the state before the chunk contributes.

``implementation``:
    "sequential"  the definition as one ``lax.scan`` over positions, autodiff gradients.
    "chunked"     section 6 of the paper: matrix products within chunks, one short scan over the
                  chunks' states. The backward recomputes the [Q, Q] tensors; what is kept is
                  inputs, outputs and one state per chunk.
"""

from __future__ import annotations

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
        x_BxLxHxP: inputs; "chunked" multiplies matrices in this dtype, accumulating in float32 (on
            CPU in float32 throughout).
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
    cpu = target_backend() == "cpu"
    if chunk is None:
        chunk = CPU_CHUNK if cpu else ACCELERATOR_CHUNK
    if cpu:  # half precision is no faster in products so small, and XLA's CPU backend lacks some
        x_BxLxHxP = x_BxLxHxP.astype(jnp.float32)
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


def _chunked(x, dt, a, b, c, keep, chunk: int) -> jax.Array:
    """Pads the length to C whole chunks of Q positions; heads as G groups of M."""
    B, L, H, P = x.shape
    G, N = b.shape[2:]
    Q = min(chunk, L)
    padding = -L % Q

    def by_chunk(v: jax.Array, *tail: int) -> jax.Array:
        # a padded position has dt = 0: decay 1, no input, so the state passes through unchanged
        v = jnp.pad(v, ((0, 0), (0, padding)) + ((0, 0),) * (v.ndim - 2))
        return v.reshape(B, (L + padding) // Q, Q, *tail)

    # documents counted from the chunk's beginning: 0 is the one that goes on from the chunk before
    run = None if keep is None else jnp.cumsum(by_chunk(1 - keep.astype(jnp.int32)), axis=2)
    dt_BxCxGxMxQ = by_chunk(dt.astype(jnp.float32), G, H // G).transpose(0, 1, 3, 4, 2)
    y_BxCxGxQxMxP = _scan_chunks(
        by_chunk(x, G, H // G, P).swapaxes(2, 3),
        dt_BxCxGxMxQ,
        dt_BxCxGxMxQ * a.astype(jnp.float32).reshape(G, H // G, 1),
        *(by_chunk(m.astype(x.dtype), G, N).swapaxes(2, 3) for m in (b, c)),
        run,
    )
    return y_BxCxGxQxMxP.swapaxes(2, 3).reshape(B, L + padding, H, P)[:, :L]


@jax.custom_vjp
def _scan_chunks(
    x_BxCxGxQxMxP: jax.Array,
    dt_BxCxGxMxQ: jax.Array,
    log_decay_BxCxGxMxQ: jax.Array,
    b_BxCxGxQxN: jax.Array,
    c_BxCxGxQxN: jax.Array,
    run_BxCxQ: jax.Array | None,
) -> jax.Array:
    """Outputs as x, in float32. Products are in x's dtype; dt and log_decay are float32."""
    return _forward(
        x_BxCxGxQxMxP, dt_BxCxGxMxQ, log_decay_BxCxGxMxQ, b_BxCxGxQxN, c_BxCxGxQxN, run_BxCxQ
    )[0]


class _Decays(NamedTuple):
    """Shares of a state or an input that are left after some time.

    Attributes:
        elapsed: log decay from the chunk's (or its document's) beginning through each position,
            [B, C, G, M, Q]; at most 0.
        from_before: of the state before the chunk, at each position; as elapsed.
        to_end: of the input at each position, at the chunk's end; as elapsed.
        whole: of the state before the chunk, at the chunk's end: [B, C, G, M].
    """

    elapsed: jax.Array
    from_before: jax.Array
    to_end: jax.Array
    whole: jax.Array


def _decays(log_decay: jax.Array, run: jax.Array | None) -> _Decays:
    # A masked product rather than a running sum less that of the document's beginning, so that
    # neither the value nor the gradient of a document knows of another, not even by rounding.
    past = _past(run, log_decay.shape[-1]).astype(jnp.float32)
    elapsed = jnp.einsum("...ij,...j->...i", past, log_decay, precision=lax.Precision.HIGHEST)
    from_before, to_end = elapsed, elapsed[..., -1:] - elapsed
    if run is not None:
        run = _of_heads(run)
        from_before = jnp.where(run == 0, from_before, -jnp.inf)
        to_end = jnp.where(run == run[..., -1:], to_end, -jnp.inf)
    from_before = jnp.exp(from_before)
    return _Decays(elapsed, from_before, jnp.exp(to_end), from_before[..., -1])


def _past(run_BxCxQ: jax.Array | None, Q: int) -> jax.Array:
    """Whether column j is at or before row i in the same document: [B, C, 1, 1, Q, Q] or [Q, Q]."""
    past = jnp.tril(jnp.ones((Q, Q), bool))
    if run_BxCxQ is None:
        return past
    run = _of_heads(run_BxCxQ)
    return past & (run[..., :, None] == run[..., None, :])


def _of_heads(run_BxCxQ: jax.Array) -> jax.Array:
    return run_BxCxQ[:, :, None, None]


def _times(v_BxCxGxQxMxP: jax.Array, factor_BxCxGxMxQ: jax.Array) -> jax.Array:
    return v_BxCxGxQxMxP * factor_BxCxGxMxQ.swapaxes(-1, -2)[..., None]


def _einsum(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _forward(x, dt, log_decay, b, c, run):
    """y = within the chunk + from the state before it. Kept for the backward: the inputs, the
    outputs and the states before the chunks.
    """
    decays = _decays(log_decay, run)
    exponent = decays.elapsed[..., :, None] - decays.elapsed[..., None, :]
    exponent = jnp.where(_past(run, dt.shape[-1]), exponent, -jnp.inf)
    scores = _einsum("bcgin,bcgjn->bcgij", c, b)
    weights = (scores[:, :, :, None] * jnp.exp(exponent)).astype(x.dtype)
    u = _times(x, dt)
    before = _states_before(decays.whole, _einsum("bcgqn,bcgqmp->bcgnmp", b, _ended(u, decays, x)))
    y = _times(_einsum("bcgqn,bcgnmp->bcgqmp", c, before.astype(x.dtype)), decays.from_before)
    y = y + _einsum("bcgmij,bcgjmp->bcgimp", weights, u.astype(x.dtype))
    return y, (x, dt, log_decay, b, c, run, before, y)


def _ended(u: jax.Array, decays: _Decays, like: jax.Array) -> jax.Array:
    """What is left of the inputs u = dt · x at their chunk's end."""
    return _times(u, decays.to_end).astype(like.dtype)


def _states_before(whole_BxCxGxM: jax.Array, added_BxCxGxNxMxP: jax.Array) -> jax.Array:
    """The state before each chunk, as added."""

    def step(state: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        whole, added = inputs
        return whole[:, :, None, :, None] * state + added, state

    inputs = (whole_BxCxGxM.swapaxes(0, 1), added_BxCxGxNxMxP.swapaxes(0, 1))
    _, before = lax.scan(step, jnp.zeros_like(added_BxCxGxNxMxP[:, 0]), inputs)
    return before.swapaxes(0, 1)


def _backward(residuals, g):
    """Squares of a chunk are transposed, [inputs j, outputs i]: so only one small product has a
    transposed left side, which XLA's CPU backend runs slowly.

    The decays' gradient needs no sums over squares: scaling all weights of output i scales y[i],
    and all weights of input j, dL/du[j]; hence y·g at i less u·du at j.
    """
    x, dt, log_decay, b, c, run, before, y = residuals
    decays = _decays(log_decay, run)
    exponent = decays.elapsed[..., None, :] - decays.elapsed[..., :, None]
    past = _past(run, dt.shape[-1]).swapaxes(-1, -2)
    decay = jnp.exp(jnp.where(past, exponent, -jnp.inf))
    u = _times(x, dt)
    half_u, half_g, half_before = (v.astype(x.dtype) for v in (u, g, before))

    scores = _einsum("bcgjn,bcgin->bcgji", b, c)
    weights = (scores[:, :, :, None] * decay).astype(x.dtype)
    du = _einsum("bcgmji,bcgimp->bcgjmp", weights, half_g)
    dweights = _einsum("bcgjmp,bcgimp->bcgmji", half_u, half_g)
    dscores = _einsum("bcgmji,bcgmji->bcgji", dweights, decay).astype(x.dtype)
    db = _einsum("bcgji,bcgin->bcgjn", dscores, c)
    dc = _einsum("bcgji,bcgjn->bcgin", dscores, b)

    from_before = _times(g, decays.from_before).astype(x.dtype)
    dc = dc + _einsum("bcgqmp,bcgnmp->bcgqn", from_before, half_before)
    dbefore = _einsum("bcgqn,bcgqmp->bcgnmp", c, from_before)
    dafter = _states_before(decays.whole[:, ::-1], dbefore[:, ::-1])[:, ::-1]
    half_dafter = dafter.astype(x.dtype)
    ended = _ended(u, decays, x)
    du = du + _times(_einsum("bcgqn,bcgnmp->bcgqmp", b, half_dafter), decays.to_end)
    db = db + _einsum("bcgqmp,bcgnmp->bcgqn", ended, half_dafter)

    added = _einsum("bcgqn,bcgqmp->bcgnmp", b, ended)
    after = decays.whole[:, :, :, None, :, None] * before + added
    delapsed = _sum_channels(y * g - u * du)
    delapsed = delapsed.at[..., -1].add(_einsum("bcgnmp,bcgnmp->bcgm", dafter, after))
    dlog_decay = jnp.einsum(
        "...ij,...i->...j",
        _past(run, dt.shape[-1]).astype(jnp.float32),
        delapsed,
        precision=lax.Precision.HIGHEST,
    )
    dx = _times(du, dt).astype(x.dtype)
    ddt = _sum_channels(x * du)
    return dx, ddt, dlog_decay, db.astype(b.dtype), dc.astype(c.dtype), None


def _sum_channels(v_BxCxGxQxMxP: jax.Array) -> jax.Array:
    """Σ over channels, [B, C, G, M, Q], as a product of matrices: XLA's CPU backend takes ten times
    as long for the sum of a product of two arrays.
    """
    ones_P = jnp.ones(v_BxCxGxQxMxP.shape[-1], jnp.float32)
    dimensions = (((v_BxCxGxQxMxP.ndim - 1,), (0,)), ((), ()))
    sums = lax.dot_general(v_BxCxGxQxMxP, ones_P, dimensions, precision=lax.Precision.HIGHEST)
    return sums.swapaxes(-1, -2)


_scan_chunks.defvjp(_forward, _backward)
