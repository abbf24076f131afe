"""Selective scan of Mamba-1 (Gu & Dao, 2312.00752).

Equation 2 with the discretization of section 3.2 (zero-order hold for A, Euler for B)::

    h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t]     per channel e, state n; 0 before a document
    y[t] = Σ_n C[t, n] h[t, n]

Values of ``implementation``:

- "sequential": the definition as one ``lax.scan`` over positions, autodiff gradients. It keeps
  several [L, B, N, E] tensors.
- "chunked": the same recurrence in chunks. The forward pass keeps one state per chunk. The backward
  pass recomputes the states of one chunk at a time and runs the adjoint recurrence. It needs memory
  for O(L/Q + Q) states instead of O(L).
- "pallas": the same in kernels that keep the state on the chip, in vector memory on TPU
  (``ops.tpu_selective_scan``) and in registers on NVIDIA GPUs from Hopper on
  (``ops.gpu_selective_scan``). The GPU kernel was compiled and interpreted but has not run on a
  card yet, so "auto" does not choose it.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from lossline.errors import UserError
from lossline.ops import gpu_selective_scan, tpu_selective_scan
from lossline.ops.backend import BACKENDS, choose, target_backend

IMPLEMENTATIONS = {"sequential": BACKENDS, "chunked": BACKENDS, "pallas": ("gpu", "tpu")}
CHUNK = 8  # as fast as 16, and compiles in a third of the time


def selective_scan(
    u_BxLxE: jax.Array,
    dt_BxLxE: jax.Array,
    a_NxE: jax.Array,
    b_BxLxN: jax.Array,
    c_BxLxN: jax.Array,
    *,
    keep_BxL: jax.Array | None = None,
    implementation: str = "auto",
    chunk: int | None = None,
) -> jax.Array:
    """Run the recurrence above in float32, whatever the dtypes of the inputs.

    Args:
        u_BxLxE: inputs.
        dt_BxLxE: step sizes, positive.
        a_NxE: decay rates, negative.
        b_BxLxN, c_BxLxN: input and output maps, shared by all channels.
        keep_BxL: 0 (or False) where a document begins and the state is reset, else 1; None: all 1.
        implementation: one of ``IMPLEMENTATIONS``, or "auto": "pallas" on TPU if the kernel takes
            these shapes, else "chunked".
        chunk: positions per chunk for "chunked"; any length works. None: 8.

    Returns:
        y [B, L, E] in float32.

    Raises:
        UserError: the backend does not have the implementation, or the kernel cannot take these
            shapes.
    """
    kernels = gpu_selective_scan if target_backend() == "gpu" else tpu_selective_scan
    reason = kernels.obstacle(u_BxLxE.shape[2], a_NxE.shape[0])
    if implementation == "auto":
        pallas = target_backend() == "tpu" and reason is None
        implementation = "pallas" if pallas else "chunked"
    choose("selective scan", implementation, IMPLEMENTATIONS)
    if implementation == "pallas" and reason is not None:
        raise UserError(
            f"selective scan: implementation 'pallas' {reason}; or set scan_implementation to"
            f" 'chunked'"
        )
    u, dt, a, b, c = (x.astype(jnp.float32) for x in (u_BxLxE, dt_BxLxE, a_NxE, b_BxLxN, c_BxLxN))
    if keep_BxL is None:
        keep_BxL = jnp.ones(u.shape[:2], jnp.float32)
    keep = keep_BxL.astype(jnp.float32)
    if implementation == "sequential":
        return sequential(u, dt, a, b, c, keep)
    if implementation == "pallas":
        return kernels.selective_scan(u_BxLxE, dt, a, b, c, keep)
    return _chunked(u, dt, a, b, c, keep, CHUNK if chunk is None else chunk)


def sequential(
    u: jax.Array, dt: jax.Array, a: jax.Array, b: jax.Array, c: jax.Array, keep: jax.Array
) -> jax.Array:
    """Run the definition, one position after the other, in the dtype of the inputs.

    Float64 inputs stay float64.
    """

    def step(h_BxNxE: jax.Array, inputs: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
        u_BxE, dt_BxE, b_BxN, c_BxN, keep_B = inputs
        decay = jnp.exp(dt_BxE[:, None] * a) * keep_B[:, None, None]
        h_BxNxE = decay * h_BxNxE + (dt_BxE * u_BxE)[:, None] * b_BxN[:, :, None]
        return h_BxNxE, jnp.sum(h_BxNxE * c_BxN[:, :, None], axis=1)

    h0 = jnp.zeros((u.shape[0], *a.shape), u.dtype)
    _, y_LxBxE = lax.scan(step, h0, tuple(x.swapaxes(0, 1) for x in (u, dt, b, c, keep)))
    return y_LxBxE.swapaxes(0, 1)


def _chunked(u, dt, a, b, c, keep, chunk: int) -> jax.Array:
    E = u.shape[-1]
    one = u.shape[0] == 1 and E % 2 == 0 and _channel_shards(E) == 1
    if one and target_backend() == "cpu":
        return _one_row(u, dt, a, b, c, keep, chunk)
    return _by_chunks(u, dt, a[None], b, c, keep, chunk)


def _one_row(u, dt, a, b, c, keep, chunk: int) -> jax.Array:
    """Run a single row as two rows of half the channels each.

    XLA CPU does not vectorize arrays with a batch of one, which costs 6 times as much.
    """
    L, E = u.shape[1:]
    u, dt = (x.reshape(L, 2, E // 2).swapaxes(0, 1) for x in (u, dt))
    a = a.reshape(-1, 2, E // 2).swapaxes(0, 1)
    b, c, keep = (jnp.broadcast_to(x, (2, *x.shape[1:])) for x in (b, c, keep))
    return _by_chunks(u, dt, a, b, c, keep, chunk).swapaxes(0, 1).reshape(1, L, E)


def _by_chunks(u, dt, a, b, c, keep, chunk: int) -> jax.Array:
    """Run ``_chunked`` with a of shape [B or 1, N, E]."""
    L = u.shape[1]
    chunk = min(chunk, L)
    padding = -L % chunk
    if padding:
        # Padded positions have dt = 0: decay 1 and no input, so they do not change the state.
        u, dt, b, c, keep = (
            jnp.pad(x, ((0, 0), (0, padding)) + ((0, 0),) * (x.ndim - 2))
            for x in (u, dt, b, c, keep)
        )
    return _scan_chunks(u, dt, a, b, c, keep, chunk)[:, :L]


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _scan_chunks(u, dt, a, b, c, keep, chunk: int) -> jax.Array:
    return _forward(u, dt, a, b, c, keep, chunk)[0]


def _decay(dt_BxE, a, keep_B) -> jax.Array:
    return jnp.exp(dt_BxE[:, None] * a) * keep_B[:, None, None]


def _states(h_BxNxE, u, dt, a, b, keep) -> list[jax.Array]:
    """Return the states after each position of one chunk; inputs are [B, Q, …].

    The loop is unrolled in Python, so that XLA fuses decay, input and output into few kernels.
    """
    states = []
    for q in range(u.shape[1]):
        step_input = (dt[:, q] * u[:, q])[:, None] * b[:, q][:, :, None]
        h_BxNxE = _decay(dt[:, q], a, keep[:, q]) * h_BxNxE + step_input
        states.append(h_BxNxE)
    return states


def _forward(u, dt, a, b, c, keep, chunk: int):
    """Run the chunks in place: cut each from [B, L, …] and write it back, without a transposed
    copy.
    """

    def step(carry, index):
        h_BxNxE, y_BxLxE = carry
        u_, dt_, b_, c_, keep_ = _cut((u, dt, b, c, keep), index, chunk)
        states = _states(h_BxNxE, u_, dt_, a, b_, keep_)
        y = [jnp.sum(h * c_[:, q][:, :, None], axis=1) for q, h in enumerate(states)]
        y_BxLxE = _put(y_BxLxE, y, index)
        return (states[-1], y_BxLxE), h_BxNxE

    h0 = jnp.zeros((u.shape[0], *a.shape[1:]), u.dtype)
    chunks = jnp.arange(u.shape[1] // chunk)
    (_, y_BxLxE), first_CxBxNxE = lax.scan(step, (h0, jnp.zeros_like(u)), chunks)
    return y_BxLxE, (u, dt, a, b, c, keep, first_CxBxNxE)


def _backward(chunk: int, residuals, g_BxLxE):
    """Run the adjoint dh[t] = C[t] g[t] + decay[t+1] dh[t+1], from the last position back."""
    u, dt, a, b, c, keep, first_CxBxNxE = residuals
    shards = _channel_shards(u.shape[-1])

    def step(carry, inputs):
        dh, da, gradients = carry
        index, h_before = inputs
        u_, dt_, b_, c_, keep_, g_ = _cut((u, dt, b, c, keep, g_BxLxE), index, chunk)
        states = [h_before, *_states(h_before, u_, dt_, a, b_, keep_)]
        du, ddt, db, dc = [], [], [], []
        for q in reversed(range(chunk)):
            dc.append(_sum_channels(states[q + 1], g_[:, q], shards))  # y[t] = Σ C[t] h[t]
            dh = dh + c_[:, q][:, :, None] * g_[:, q][:, None]
            db.append(_sum_channels(dh, dt_[:, q] * u_[:, q], shards))  # h[t] = … + dt B u
            step_input = jnp.sum(dh * b_[:, q][:, :, None], axis=1)  # gradient of dt·u
            dh = dh * _decay(dt_[:, q], a, keep_[:, q])  # pass the adjoint to position t - 1
            exponent = dh * states[q]  # gradient of dt·A
            du.append(step_input * dt_[:, q])
            ddt.append(step_input * u_[:, q] + jnp.sum(exponent * a, axis=1))
            da = da + exponent * dt_[:, q][:, None]
        new = (x[::-1] for x in (du, ddt, db, dc))
        gradients = tuple(_put(old, x, index) for old, x in zip(gradients, new, strict=True))
        return (dh, da, gradients), None

    zero = jnp.zeros_like(first_CxBxNxE[0])
    maps = jnp.zeros((*b.shape[:2], shards, b.shape[2]), b.dtype)
    carry = zero, zero, (jnp.zeros_like(u), jnp.zeros_like(dt), maps, maps)
    chunks = jnp.arange(u.shape[1] // chunk), first_CxBxNxE
    (_, da, (du, ddt, db, dc)), _ = lax.scan(step, carry, chunks, reverse=True)
    # Add the partial sums of the devices here: one exchange, not one per chunk.
    db, dc = (jnp.sum(x, axis=-2) for x in (db, dc))
    if a.shape[0] == 1:  # all rows share the rates
        da = jnp.sum(da, axis=0, keepdims=True)
    return du, ddt, da, db, dc, None


def _cut(arrays, index, chunk: int) -> tuple[jax.Array, ...]:
    """Return chunk ``index`` of each array [B, L, …], as [B, Q, …]."""
    return tuple(lax.dynamic_slice_in_dim(x, index * chunk, chunk, axis=1) for x in arrays)


def _put(x_BxLx: jax.Array, parts: list[jax.Array], index) -> jax.Array:
    """Write the positions of chunk ``index``; each part is [B, …]."""
    chunk = jnp.stack(parts, axis=1)
    return lax.dynamic_update_slice_in_dim(x_BxLx, chunk, index * len(parts), axis=1)


def _channel_shards(channels: int) -> int:
    """Return the number of devices that the channels are split over."""
    mesh = jax.sharding.get_abstract_mesh()
    shards = 1 if mesh.empty else mesh.shape.get("tensor", 1)
    return shards if channels % shards == 0 else 1


def _sum_channels(h_BxNxE, x_BxE, shards: int) -> jax.Array:
    """Return Σ_e h[b, n, e] x[b, e] over the channels of each device, [B, shards, N].

    It is a matrix product, because XLA CPU does not vectorize a float sum over the innermost axis.
    """
    B, N, E = h_BxNxE.shape
    h = h_BxNxE.reshape(B, N, shards, E // shards)
    x = x_BxE.reshape(B, shards, E // shards)
    return lax.dot_general(h, x, (((3,), (2,)), ((0, 2), (0, 1))), precision=lax.Precision.HIGHEST)


_scan_chunks.defvjp(_forward, _backward)
