"""Selective scan on TPU: a Pallas kernel that keeps the state in vector memory.

XLA's loop writes the state of each position to HBM, N times the size of inputs and output. This
kernel runs a grid (row, block of channels, chunk of positions) with chunks innermost. The state [N,
channels] stays in scratch memory from chunk to chunk; HBM holds only inputs, output and one state
per chunk. The backward pass runs the chunks from the last to the first, recomputes the states of
one chunk in scratch memory and runs the adjoint recurrence (as "chunked" in ``ops.selective_scan``
does).

The kernel returns partial sums: the gradients of B and C, which sum over channels, per block of
channels; that of A, which sums over rows, per row. They are added outside, so that devices exchange
each of them once, not in every chunk. The kernel is mapped over the current mesh.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossline.ops.scan_shards import channels_obstacle, on_each_device

LANES = 128
SUBLANES = 8
CHUNK = 128  # positions per grid step: positions of the maps B and C are the lanes
BLOCKS = (512, 256, 128)  # channels per grid step: the largest that divides E
UNROLL = 8


def obstacle(channels: int, states: int) -> str | None:
    """Return why the kernel cannot take these sizes, and the nearest sizes that work.

    Args:
        channels: channels E.
        states: states N of each channel.

    Returns:
        The end of an error message, or None if there is no obstacle.
    """
    if (reason := channels_obstacle(channels, LANES)) is not None:
        return reason
    if states % SUBLANES:
        below = f"{states // SUBLANES * SUBLANES} or " if states > SUBLANES else ""
        return (
            f"takes a state size that is a multiple of {SUBLANES}, not {states}; nearest: {below}"
            f"{-(-states // SUBLANES) * SUBLANES}"
        )
    return None


def selective_scan(
    u_BxLxE: jax.Array,
    dt_BxLxE: jax.Array,
    a_NxE: jax.Array,
    b_BxLxN: jax.Array,
    c_BxLxN: jax.Array,
    keep_BxL: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Run the recurrence of ``ops.selective_scan``.

    Args:
        u_BxLxE: inputs in any dtype; all other arguments are float32.
        dt_BxLxE, a_NxE, b_BxLxN, c_BxLxN, keep_BxL: as in ``ops.selective_scan``.
        interpret: interpret the kernels step by step on any backend, for tests.

    Returns:
        y [B, L, E] in float32.
    """
    L = u_BxLxE.shape[1]
    padding = ((0, 0), (0, -L % CHUNK), (0, 0))
    # Padded positions have dt = 0: decay 1 and no input, so they do not change the state.
    u, dt = jnp.pad(u_BxLxE, padding), jnp.pad(dt_BxLxE, padding)
    # Repeat keep, so that the number of rows of the maps stays a multiple of SUBLANES.
    keep = jnp.broadcast_to(keep_BxL[..., None], (*keep_BxL.shape, SUBLANES))
    maps_BxLxR = jnp.concatenate([b_BxLxN, c_BxLxN, keep], axis=-1)
    maps_BxRxL = jnp.pad(maps_BxLxR, padding).swapaxes(1, 2)
    return _scan(u, dt, a_NxE, maps_BxRxL, interpret)[:, :L]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scan(u, dt, a_NxE, maps_BxRxL, interpret: bool) -> jax.Array:
    return _forward(u, dt, a_NxE, maps_BxRxL, interpret)[0]


def _forward(u, dt, a_NxE, maps_BxRxL, interpret: bool):
    call = on_each_device(
        partial(_forward_call, interpret=interpret),
        ("positions", "positions", "rates", "maps"),
        ("positions", "states"),
    )
    y, first = call(u, dt, a_NxE, maps_BxRxL)
    return y, (u, dt, a_NxE, maps_BxRxL, first)


def _backward(interpret: bool, residuals, g):
    u, dt, a_NxE, maps_BxRxL, first = residuals
    call = on_each_device(
        partial(_backward_call, interpret=interpret),
        ("positions", "positions", "rates", "maps", "states", "positions"),
        ("positions", "positions", "rates_by_row", "maps_by_block"),
    )
    du, ddt, da, dmaps = call(u, dt, a_NxE, maps_BxRxL, first, g)
    dmaps = jnp.sum(dmaps, axis=1)
    # Zeros as the gradient of keep, which is data.
    dmaps = jnp.pad(dmaps, ((0, 0), (0, SUBLANES), (0, 0)))
    return du, ddt, jnp.sum(da, axis=0), dmaps


_scan.defvjp(_forward, _backward)


# --- one device ----------------------------------------------------------------------------------


def _forward_call(u, dt, a_NxE, maps_BxRxL, *, interpret: bool):
    """Return y [B, L, E] and the state before each chunk [B, C, N, E]."""
    grid, specs = _tiling(u.shape, a_NxE.shape[0], lambda chunk: chunk)
    B, L, E = u.shape
    N, block = a_NxE.shape[0], specs["block"]
    pl, pltpu = _pallas()
    return pl.pallas_call(
        _forward_kernel,
        grid=grid,
        in_specs=[specs[name] for name in ("positions", "positions", "rates", "maps")],
        out_specs=[specs[name] for name in ("positions", "states")],
        out_shape=[
            jax.ShapeDtypeStruct((B, L, E), jnp.float32),
            jax.ShapeDtypeStruct((B, L // CHUNK, N, E), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((N, block), jnp.float32),
            pltpu.VMEM((CHUNK, block), jnp.float32),
        ],
        compiler_params=_parameters(),
        interpret=interpret,
        name="selective_scan_forward",
    )(u, dt, a_NxE, maps_BxRxL)


def _forward_kernel(u_ref, dt_ref, a_ref, maps_ref, y_ref, first_ref, h_ref, u32_ref) -> None:
    pl, _ = _pallas()

    @pl.when(pl.program_id(2) == 0)
    def begin():
        h_ref[...] = jnp.zeros_like(h_ref)

    first_ref[...] = h_ref[...]
    u32_ref[...] = u_ref[...].astype(jnp.float32)

    def emit(t, h_NxE, c_Nx1):
        y_ref[pl.ds(t, 1), :] = jnp.sum(h_NxE * c_Nx1, axis=0, keepdims=True)

    h_ref[...] = _run(h_ref[...], u32_ref, dt_ref, a_ref[...], maps_ref[...], emit)


def _run(h_NxE, u_ref, dt_ref, a_NxE, maps_RxQ, emit: Callable) -> jax.Array:
    """Return the state after a chunk; call ``emit(t, state after t, C[t])`` at each position."""
    N = a_NxE.shape[0]

    def step(t, carry):
        h_NxE, maps_RxQ = carry
        b_Nx1, c_Nx1, keep = _columns(maps_RxQ, N)
        dt_1xE = _row(dt_ref, t)
        h_NxE = jnp.exp(dt_1xE * a_NxE) * keep * h_NxE + b_Nx1 * (dt_1xE * _row(u_ref, t))
        emit(t, h_NxE, c_Nx1)
        return h_NxE, _next(maps_RxQ)

    h_NxE, _ = lax.fori_loop(0, CHUNK, step, (h_NxE, maps_RxQ), unroll=UNROLL)
    return h_NxE


def _backward_call(u, dt, a_NxE, maps_BxRxL, first, g, *, interpret: bool):
    """Return the gradients of one device.

    Returns:
        Gradients by u and dt, [B, L, E]; by A for each row, [B, N, E]; by B and C for each block of
        channels, [B, blocks, 2N, L].
    """
    B, L, E = u.shape
    chunks = L // CHUNK
    grid, specs = _tiling(u.shape, a_NxE.shape[0], lambda chunk: chunks - 1 - chunk)
    N, block = a_NxE.shape[0], specs["block"]
    pl, pltpu = _pallas()
    inputs = ("positions", "positions", "rates", "maps", "states", "positions")
    outputs = ("positions", "positions", "rates_by_row", "maps_by_block")
    return pl.pallas_call(
        _backward_kernel,
        grid=grid,
        in_specs=[specs[name] for name in inputs],
        out_specs=[specs[name] for name in outputs],
        out_shape=[
            jax.ShapeDtypeStruct((B, L, E), u.dtype),
            jax.ShapeDtypeStruct((B, L, E), jnp.float32),
            jax.ShapeDtypeStruct((B, N, E), jnp.float32),
            jax.ShapeDtypeStruct((B, E // block, 2 * N, L), jnp.float32),
        ],
        scratch_shapes=[
            pltpu.VMEM((CHUNK + 1, N, block), jnp.float32),
            pltpu.VMEM((N, block), jnp.float32),
            pltpu.VMEM((CHUNK, block), jnp.float32),
            pltpu.VMEM((CHUNK, block), jnp.float32),
        ],
        compiler_params=_parameters(),
        interpret=interpret,
        name="selective_scan_backward",
    )(u, dt, a_NxE, maps_BxRxL, first, g)


def _backward_kernel(
    u_ref, dt_ref, a_ref, maps_ref, first_ref, g_ref, du_ref, ddt_ref, da_ref, dmaps_ref,
    states_ref, dh_ref, u32_ref, du32_ref,
) -> None:  # fmt: skip
    """Run the adjoint recurrence dh[t] = C[t] g[t] + decay[t+1] dh[t+1]."""
    pl, _ = _pallas()

    @pl.when(pl.program_id(2) == 0)
    def begin():
        dh_ref[...] = jnp.zeros_like(dh_ref)
        da_ref[...] = jnp.zeros_like(da_ref)

    a_NxE = a_ref[...]
    N = a_NxE.shape[0]
    u32_ref[...] = u_ref[...].astype(jnp.float32)
    states_ref[0] = first_ref[...]  # slot t + 1 holds the state after position t

    def keep_state(t, h_NxE, c_Nx1):
        states_ref[t + 1] = h_NxE

    _run(first_ref[...], u32_ref, dt_ref, a_NxE, maps_ref[...], keep_state)
    lane = lax.broadcasted_iota(jnp.int32, (2 * N, CHUNK), 1)

    def step(i, carry):
        dh_NxE, da_NxE, maps_RxQ, dmaps = carry
        t = CHUNK - 1 - i
        maps_RxQ = _previous(maps_RxQ)
        b_Nx1, c_Nx1, keep = _columns(maps_RxQ, N)
        dt_1xE, u_1xE, g_1xE = _row(dt_ref, t), _row(u32_ref, t), _row(g_ref, t)
        dc_Nx1 = jnp.sum(states_ref[t + 1] * g_1xE, axis=1, keepdims=True)
        dh_NxE = dh_NxE + c_Nx1 * g_1xE
        db_Nx1 = jnp.sum(dh_NxE * (dt_1xE * u_1xE), axis=1, keepdims=True)
        step_input = jnp.sum(dh_NxE * b_Nx1, axis=0, keepdims=True)  # gradient of dt·u
        dh_NxE = dh_NxE * (jnp.exp(dt_1xE * a_NxE) * keep)  # pass the adjoint to position t - 1
        exponent = dh_NxE * states_ref[t]  # gradient of dt·A
        du32_ref[pl.ds(t, 1), :] = step_input * dt_1xE
        ddt_1xE = step_input * u_1xE + jnp.sum(exponent * a_NxE, axis=0, keepdims=True)
        ddt_ref[pl.ds(t, 1), :] = ddt_1xE
        column = jnp.concatenate([db_Nx1, dc_Nx1], axis=0)
        dmaps = jnp.where(lane == t, column, dmaps)
        return dh_NxE, da_NxE + exponent * dt_1xE, maps_RxQ, dmaps

    zeros = jnp.zeros((2 * N, CHUNK), jnp.float32)
    carry = (dh_ref[...], da_ref[...], maps_ref[...], zeros)
    dh_NxE, da_NxE, _, dmaps = lax.fori_loop(0, CHUNK, step, carry, unroll=UNROLL)
    dh_ref[...] = dh_NxE
    da_ref[...] = da_NxE
    dmaps_ref[...] = dmaps
    du_ref[...] = du32_ref[...].astype(du_ref.dtype)


def _columns(maps_RxQ: jax.Array, states: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return B [N, 1], C [N, 1] and keep [1, 1] of the position in lane 0."""
    column = maps_RxQ[:, :1]
    return column[:states], column[states : 2 * states], column[2 * states : 2 * states + 1]


def _next(maps_RxQ: jax.Array) -> jax.Array:
    """Rotate the next position to lane 0."""
    return _pallas()[1].roll(maps_RxQ, CHUNK - 1, 1)  # a roll by -1


def _previous(maps_RxQ: jax.Array) -> jax.Array:
    """Rotate the previous position to lane 0; from the first position, the last one."""
    return _pallas()[1].roll(maps_RxQ, 1, 1)


def _row(ref: Any, t: jax.Array) -> jax.Array:
    return ref[_pallas()[0].ds(t, 1), :]


def _tiling(
    shape: tuple[int, int, int], states: int, order: Callable
) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """Return the grid (rows, blocks of channels, chunks) and the block of each kind of array.

    ``order`` maps a grid index to the chunk that it processes.
    """
    pl, _ = _pallas()
    B, L, E = shape
    N, block = states, next(size for size in BLOCKS if E % size == 0)
    specs = {
        "block": block,
        "positions": pl.BlockSpec((None, CHUNK, block), lambda b, e, c: (b, order(c), e)),
        "rates": pl.BlockSpec((N, block), lambda b, e, c: (0, e)),
        "maps": pl.BlockSpec((None, 2 * N + SUBLANES, CHUNK), lambda b, e, c: (b, 0, order(c))),
        "states": pl.BlockSpec((None, None, N, block), lambda b, e, c: (b, order(c), 0, e)),
        "rates_by_row": pl.BlockSpec((None, N, block), lambda b, e, c: (b, 0, e)),
        "maps_by_block": pl.BlockSpec(
            (None, None, 2 * N, CHUNK), lambda b, e, c: (b, e, 0, order(c))
        ),
    }
    return (B, E // block, L // CHUNK), specs


def _parameters() -> Any:
    return _pallas()[1].CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary"))


def _pallas() -> tuple[Any, Any]:
    """Import Pallas late, because the import takes 0.25 s and other backends do not need it."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    return pl, pltpu
