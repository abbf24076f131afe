"""State-space duality, the layer of Mamba-2 (Dao & Gu, 2405.21060).

The recurrence is::

    h[t] = exp(dt[t] a) h[t-1] + dt[t] x[t] b[t]ᵀ    per head, a [P, N] state; 0 before a document
    y[t] = h[t] c[t] + skip x[t]

The decay is one number per head and position. Therefore a chunk of Q positions is a masked
attention, y = (c bᵀ ∘ decay) (dt x), plus the contribution of the state before the chunk.

Values of ``implementation``:

- "sequential": the definition as one ``lax.scan`` over positions, autodiff gradients.
- "chunked": section 6 of the paper: matrix products within chunks and one short scan over the
  states of the chunks. It keeps inputs, outputs and one state per chunk; the backward pass
  recomputes the [Q, Q] tensors.

Numerical error of "chunked": decays are differences of sums over a chunk, and their error grows
with these sums. If little of a state is left after one position (dt a from -10 to -100), the
relative error reaches 1e-4 in the gradients of x and dt and 2e-2 in that of a (chunks of 64 and
256, against float64).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec

from lossline.errors import UserError
from lossline.ops.backend import BACKENDS, choose, target_backend
from lossline.sharding.mesh import BATCH_AXES

IMPLEMENTATIONS = {"sequential": BACKENDS, "chunked": BACKENDS}
CPU_CHUNK = 64
ACCELERATOR_CHUNK = 256


def state_space_duality(
    x_BxLxHxP: jax.Array,
    dt_BxLxH: jax.Array,
    a_H: jax.Array,
    b_BxLxGxN: jax.Array,
    c_BxLxGxN: jax.Array,
    skip_H: jax.Array,
    *,
    keep_BxL: jax.Array | None = None,
    implementation: str = "auto",
    chunk: int | None = None,
) -> jax.Array:
    """Run the recurrence above; decays, states and sums are float32 whatever the input dtypes.

    Args:
        x_BxLxHxP: inputs. "chunked" multiplies matrices in this dtype and accumulates in float32;
            on CPU it multiplies in float32.
        dt_BxLxH: step sizes, positive.
        a_H: decay rates, negative.
        b_BxLxGxN, c_BxLxGxN: input and output maps; head h uses group ``h // (H / G)``.
        skip_H: factor of the input that is added to the output.
        keep_BxL: 0 (or False) where a document begins and the state is reset, else 1; None: all 1.
        implementation: one of ``IMPLEMENTATIONS``; "auto" is "chunked".
        chunk: positions per chunk for "chunked"; any length works. None: 64 on CPU, else 256.

    Returns:
        y [B, L, H, P] in the dtype of x.

    Raises:
        UserError: G does not divide H, or the implementation is unknown.
    """
    if implementation == "auto":
        implementation = "chunked"
    choose("state-space duality", implementation, IMPLEMENTATIONS)
    H, G = x_BxLxHxP.shape[2], b_BxLxGxN.shape[2]
    if H % G:
        raise UserError(
            f"state-space duality: {G} groups of maps do not divide {H} heads; change one of them"
        )
    if implementation == "sequential":
        if keep_BxL is None:
            keep_BxL = jnp.ones(x_BxLxHxP.shape[:2], jnp.float32)
        inputs = (x_BxLxHxP, dt_BxLxH, a_H, b_BxLxGxN, c_BxLxGxN, skip_H, keep_BxL)
        return sequential(*(v.astype(jnp.float32) for v in inputs)).astype(x_BxLxHxP.dtype)
    cpu = target_backend() == "cpu"
    if chunk is None:
        chunk = CPU_CHUNK if cpu else ACCELERATOR_CHUNK
    # On CPU, half precision does not speed up such small products, and XLA lacks some of them.
    x = x_BxLxHxP.astype(jnp.float32) if cpu else x_BxLxHxP
    y_BxLxHxP = _chunked(x, dt_BxLxH, a_H, b_BxLxGxN, c_BxLxGxN, skip_H, keep_BxL, chunk)
    return y_BxLxHxP.astype(x_BxLxHxP.dtype)


def sequential(
    x: jax.Array,
    dt: jax.Array,
    a: jax.Array,
    b: jax.Array,
    c: jax.Array,
    skip: jax.Array,
    keep: jax.Array,
) -> jax.Array:
    """Run the definition, one position after the other, in the dtype of the inputs.

    Float64 inputs stay float64.
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
    return y_LxBxHxP.swapaxes(0, 1) + skip[:, None] * x


def _chunked(x, dt, a, b, c, skip, keep, chunk: int) -> jax.Array:
    """Pad the length to C whole chunks of Q positions, and order heads as G groups of M."""
    B, L, H, P = x.shape
    G, N = b.shape[2:]
    Q = min(chunk, L)
    padding = -L % Q

    def by_chunk(v: jax.Array, *tail: int) -> jax.Array:
        # Padded positions have dt = 0: decay 1 and no input, so they do not change the state.
        v = jnp.pad(v, ((0, 0), (0, padding)) + ((0, 0),) * (v.ndim - 2))
        return v.reshape(B, (L + padding) // Q, Q, *tail)

    # Number of the document within its chunk; 0 continues the last document of the previous chunk.
    run = None if keep is None else jnp.cumsum(by_chunk(1 - keep.astype(jnp.int32)), axis=2)
    dt_BxCxGxMxQ = jnp.moveaxis(by_chunk(dt.astype(jnp.float32), G, H // G), 2, -1)
    y_BxLxE = _scan_chunks(
        jnp.pad(x.reshape(B, L, H * P), ((0, 0), (0, padding), (0, 0))),
        dt_BxCxGxMxQ,
        dt_BxCxGxMxQ * a.astype(jnp.float32).reshape(G, H // G, 1),
        *(by_chunk(m.astype(x.dtype), G, N).swapaxes(2, 3) for m in (b, c)),
        skip.astype(jnp.float32).reshape(G, H // G, 1),
        run,
    )
    return y_BxLxE[:, :L].reshape(B, L, H, P)


@jax.custom_vjp
def _scan_chunks(
    x_BxLxE: jax.Array,
    dt_BxCxGxMxQ: jax.Array,
    log_decay_BxCxGxMxQ: jax.Array,
    b_BxCxGxQxN: jax.Array,
    c_BxCxGxQxN: jax.Array,
    skip_GxMx1: jax.Array,
    run_BxCxQ: jax.Array | None,
) -> jax.Array:
    """Return outputs like x. Products are in the dtype of x; dt, log_decay and skip are float32."""
    inputs = (x_BxLxE, dt_BxCxGxMxQ, log_decay_BxCxGxMxQ, b_BxCxGxQxN, c_BxCxGxQxN)
    return _forward(*inputs, skip_GxMx1, run_BxCxQ)[0]


def _turned(v_BxLxE: jax.Array, dt_BxCxGxMxQ: jax.Array) -> jax.Array:
    """Transpose [B, L, E] to [B, C, G, M, P, Q], with positions last.

    The transpose runs while heads and their channels are one axis: on TPU, splitting the last axis
    into parts narrower than its 128 lanes is a copy, and splitting another axis is free.
    """
    B, C, G, M, Q = dt_BxCxGxMxQ.shape
    v_BxCxExQ = _stored(v_BxLxE, G).reshape(B, C, Q, -1).swapaxes(2, 3)
    return _stored(v_BxCxExQ.reshape(B, C, G, M, -1, Q), G)


def _turned_back(v_BxCxGxMxPxQ: jax.Array) -> jax.Array:
    """Transpose [B, C, G, M, P, Q] back to [B, L, E]."""
    B, C, G, M, P, Q = v_BxCxGxMxPxQ.shape
    v_BxCxExQ = _stored(v_BxCxGxMxPxQ, G).reshape(B, C, G * M * P, Q)
    return _stored(v_BxCxExQ.swapaxes(2, 3).reshape(B, C * Q, -1), G)


def _stored(v: jax.Array, groups: int) -> jax.Array:
    """Return ``v``, with the constraint that it is stored once, row by row.

    Without it XLA CPU transposes the array again in every fusion that reads it, and XLA TPU stores
    a float32 copy of a half-precision array.

    Args:
        v: [B, L, E] or [B, C, G, M, …].
        groups: number of groups G, to find the axis that ``tensor`` splits.
    """

    def pinned(v: jax.Array) -> jax.Array:
        return with_layout_constraint(v, Layout(tuple(range(v.ndim))))

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return pinned(v)
    # Each device pins its own share: XLA would gather the whole array to pin it.
    batch = tuple(axis for axis in BATCH_AXES if axis in mesh.shape)
    tensor = mesh.shape.get("tensor", 1)
    rows = math.prod(mesh.shape[axis] for axis in batch)
    by_group = groups % tensor == 0
    heads = 3 if v.ndim > 3 and not by_group else 2
    if v.shape[0] % rows or v.shape[heads] % tensor or not (by_group or groups == 1):
        return v
    spec = PartitionSpec(batch, *((None, "tensor") if heads == 2 else (None, None, "tensor")))
    return jax.shard_map(pinned, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(v)


class _Decays(NamedTuple):
    """Factors by which states and inputs decay within a chunk.

    Attributes:
        between: factor of the input at position j seen at position i, [B, C, G, M, Q (j), Q (i)]; 0
            where i is before j or in another document.
        from_before: factor of the state before the chunk, at each position, [B, C, G, M, Q].
        to_end: factor of the input at each position, at the end of the chunk, [B, C, G, M, Q].
        whole: factor of the state before the chunk, at the end of the chunk, [B, C, G, M].
    """

    between: jax.Array
    from_before: jax.Array
    to_end: jax.Array
    whole: jax.Array


def _decays(log_decay: jax.Array, run: jax.Array | None) -> _Decays:
    # Sum with a masked product, not with a running sum minus its value at the beginning of the
    # document: so no document changes the values or gradients of another, not even by rounding.
    past = _past(run, log_decay.shape[-1])
    elapsed = jnp.einsum(
        "...ij,...j->...i",
        past.astype(jnp.float32),
        log_decay,
        precision=lax.Precision.HIGHEST,
    )
    exponent = elapsed[..., None, :] - elapsed[..., :, None]
    # Add -inf instead of choosing with jnp.where: JAX moves this array out of the loop over
    # layers, and jnp.where would also store a mask and a second branch for all heads.
    closed = jnp.where(past, 0.0, -jnp.inf)
    between = jnp.exp(exponent + closed.swapaxes(-1, -2))
    from_before, to_end = elapsed, elapsed[..., -1:] - elapsed
    if run is not None:
        run = _of_heads(run)
        from_before = jnp.where(run == 0, from_before, -jnp.inf)
        to_end = jnp.where(run == run[..., -1:], to_end, -jnp.inf)
    from_before = jnp.exp(from_before)
    return _Decays(between, from_before, jnp.exp(to_end), from_before[..., -1])


def _past(run_BxCxQ: jax.Array | None, Q: int) -> jax.Array:
    """Return whether j is at or before i in the same document: [B, C, 1, 1, Q (i), Q (j)] or [Q,
    Q].
    """
    past = jnp.tril(jnp.ones((Q, Q), bool))
    if run_BxCxQ is None:
        return past
    run = _of_heads(run_BxCxQ)
    return past & (run[..., :, None] == run[..., None, :])


def _of_heads(run_BxCxQ: jax.Array) -> jax.Array:
    return run_BxCxQ[:, :, None, None]


def _times(v_BxCxGxMxPxQ: jax.Array, factor_BxCxGxMxQ: jax.Array) -> jax.Array:
    return v_BxCxGxMxPxQ * factor_BxCxGxMxQ[..., None, :]


def _einsum(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _rounded(subscripts: str, left: jax.Array, right: jax.Array) -> jax.Array:
    """Return a large product that later code only sums or multiplies.

    On GPU its dtype is that of the operands, because XLA writes it to HBM there; elsewhere float32.
    """
    dtype = left.dtype if target_backend() == "gpu" else jnp.float32
    return jnp.einsum(subscripts, left, right, preferred_element_type=dtype)


def _forward(x_BxLxE, dt, log_decay, b, c, skip, run):
    """Compute y = (within the chunk) + (from the state before it), and out = y + skip · x.

    The backward pass keeps the inputs, y and the state before each chunk.
    """
    x = _turned(x_BxLxE, dt)
    decays = _decays(log_decay, run)
    scores = _einsum("bcgjn,bcgin->bcgji", b, c)
    weights = (scores[:, :, :, None] * decays.between).astype(x.dtype)
    u = _times(x, dt)
    added = _einsum("bcgmpq,bcgqn->bcgmpn", _ended(u, decays, x), b)
    before = _states_before(decays.whole, added, x.dtype)
    y = _times(_rounded("bcgmpn,bcgqn->bcgmpq", before, c), decays.from_before)
    y = y + _rounded("bcgmpj,bcgmji->bcgmpi", u.astype(x.dtype), weights)
    out = _turned_back((y + _times(x, skip)).astype(x.dtype))
    return out, (x_BxLxE, dt, log_decay, b, c, skip, run, before, y.astype(x.dtype))


def _ended(u: jax.Array, decays: _Decays, like: jax.Array) -> jax.Array:
    """Return the inputs u = dt · x decayed to the end of their chunk."""
    return _times(u, decays.to_end).astype(like.dtype)


def _states_before(whole_BxCxGxM, added_BxCxGxMxPxN, dtype) -> jax.Array:
    """Return the state before each chunk, [B, C, G, M, P, N] in ``dtype``, summed in float32."""

    def step(state: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        whole, added = inputs
        return whole[..., None, None] * state + added, state.astype(dtype)

    inputs = (whole_BxCxGxM.swapaxes(0, 1), added_BxCxGxMxPxN.swapaxes(0, 1))
    _, before = lax.scan(step, jnp.zeros_like(added_BxCxGxMxPxN[:, 0]), inputs)
    return before.swapaxes(0, 1)


def _states_gradients(whole_BxCxGxM, dbefore_BxCxGxMxPxN, before_BxCxGxMxPxN):
    """Return the gradients of the state after each chunk.

    Args:
        whole_BxCxGxM: decay over the whole chunk.
        dbefore_BxCxGxMxPxN: gradient that each chunk gives to the state before it.
        before_BxCxGxMxPxN: state before each chunk.

    Returns:
        The gradients [B, C, G, M, P, N] in the dtype of ``before``, and the sum of gradient times
        state over each state, [B, C, G, M] in float32.
    """

    def step(dafter: jax.Array, inputs: tuple[jax.Array, ...]):
        whole, dbefore, before = inputs
        dstate = whole[..., None, None] * dafter + dbefore
        return dstate, (dafter.astype(before.dtype), jnp.sum(dstate * before, axis=(-2, -1)))

    inputs = (whole_BxCxGxM, dbefore_BxCxGxMxPxN, before_BxCxGxMxPxN)
    nothing = jnp.zeros_like(dbefore_BxCxGxMxPxN[:, 0])  # nothing reads the last state
    _, (dafter, along) = lax.scan(
        step, nothing, tuple(v.swapaxes(0, 1) for v in inputs), reverse=True
    )
    # The state before a chunk is the state after the previous chunk: shift by one.
    along = jnp.concatenate([along[1:], jnp.zeros_like(along[:1])])
    return dafter.swapaxes(0, 1), along.swapaxes(0, 1)


def _backward(residuals, g_BxLxE):
    """Compute the gradients by hand; that of the decays needs no sums over [Q, Q] tensors.

    A factor on all weights of output i scales y[i]; a factor on all weights of input j scales the
    part of u[j]. Therefore the gradient by the elapsed decay at position t is y·g at t minus u·du
    at t.
    """
    x_BxLxE, dt, log_decay, b, c, skip, run, before, y = residuals
    x, g = _turned(x_BxLxE, dt), _turned(g_BxLxE, dt)
    decays = _decays(log_decay, run)
    u = _times(x, dt)

    scores = _einsum("bcgjn,bcgin->bcgji", b, c)
    weights = (scores[:, :, :, None] * decays.between).astype(x.dtype)
    du = _rounded("bcgmpi,bcgmji->bcgmpj", g, weights)
    turned_u = u.astype(x.dtype).swapaxes(-1, -2)
    if target_backend() == "cpu":  # a product with a transposed left side takes twice as long
        turned_u = _stored(turned_u, dt.shape[2])
    dweights = _rounded("bcgmjp,bcgmpi->bcgmji", turned_u, g)
    dscores = _einsum("bcgmji,bcgmji->bcgji", dweights, decays.between).astype(x.dtype)
    db = _einsum("bcgji,bcgin->bcgjn", dscores, c)
    dc = _einsum("bcgji,bcgjn->bcgin", dscores, b)

    from_before = _times(g, decays.from_before).astype(x.dtype)
    dc = dc + _einsum("bcgmpq,bcgmpn->bcgqn", from_before, before)
    dbefore = _einsum("bcgmpq,bcgqn->bcgmpn", from_before, c)
    dafter, along_state = _states_gradients(decays.whole, dbefore, before)
    du = du + _times(_rounded("bcgmpn,bcgqn->bcgmpq", dafter, b), decays.to_end)
    db = db + _einsum("bcgmpq,bcgmpn->bcgqn", _ended(u, decays, x), dafter)

    along_x, along_du = _sum_channels(g, x), _sum_channels(x, du)
    delapsed = _sum_channels(y, g) - dt * along_du
    delapsed = delapsed.at[..., -1].add(along_state)
    dlog_decay = jnp.einsum(
        "...ij,...i->...j",
        _past(run, dt.shape[-1]).astype(jnp.float32),
        delapsed,
        precision=lax.Precision.HIGHEST,
    )
    dx = _turned_back((_times(du, dt) + _times(g, skip)).astype(x.dtype))
    dskip = jnp.sum(along_x, axis=(0, 1, 4))[..., None]
    return dx, along_du, dlog_decay, db.astype(b.dtype), dc.astype(c.dtype), dskip, None


def _sum_channels(v_BxCxGxMxPxQ: jax.Array, w_BxCxGxMxPxQ: jax.Array) -> jax.Array:
    """Return the sum over channels of the product, [B, C, G, M, Q].

    On CPU it is a matrix product, because XLA's sum takes four times as long there.
    """
    product = v_BxCxGxMxPxQ.astype(jnp.float32) * w_BxCxGxMxPxQ.astype(jnp.float32)
    if target_backend() != "cpu":
        return jnp.sum(product, axis=-2)
    ones = jnp.ones((*product.shape[:-2], 1, product.shape[-2]), jnp.float32)
    return jnp.matmul(ones, product, precision=lax.Precision.HIGHEST)[..., 0, :]


_scan_chunks.defvjp(_forward, _backward)
