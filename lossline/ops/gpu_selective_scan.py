"""Selective scan on NVIDIA GPUs (Hopper or later): Pallas kernels that keep the state in registers.

XLA's loop launches several kernels for every few positions, and each reads and writes the state.
Here one block of 128 threads processes one row and 128 channels; each thread holds one channel and
its N states. Tiles of positions are copied to shared memory ahead of time. HBM holds only the
inputs, the output and, for the backward pass, one state per tile.

The backward pass processes the tiles from the last to the first, in two passes over each tile. The
first pass stores the state before every few positions in shared memory. The second goes backwards
over these groups of positions: it recomputes their states and decays in registers and runs the
adjoint recurrence. The gradients of B and C are sums over channels, that is, over threads. Each
thread writes its summands to shared memory, one row per position and map, and the rows are summed
from there.

As on TPU, partial sums (of B and C per block of channels, of A per row) are added outside the
kernel. The kernels are mapped over the current mesh.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossline.ops.backend import gpu_capability
from lossline.ops.scan_shards import channels_obstacle, on_each_device

CHANNELS = 128  # channels of one block: one per thread of a warpgroup
TILE = 16  # positions copied at a time; the backward pass keeps one state per tile
STAGES = 2  # tiles in shared memory: one in use, one being copied
UNROLL = 4  # positions unrolled in the forward loop, so that loads overlap
ROWS = 64  # rows of summands read at once: the register layout of the tensor cores has 64
PADDING = 8  # columns after each row of summands, so that adjacent rows use different banks
STATES = (4, 8, 16)  # 32 states per channel need more shared memory than exists
ALIGNMENT = 4  # float32 numbers in 16 bytes; a copied row of maps must be a multiple of 16 bytes
HOPPER = (9, 0)


def obstacle(channels: int, states: int) -> str | None:
    """Return why the kernel cannot take these sizes on this GPU, and the nearest sizes that work.

    Args:
        channels: channels E.
        states: states N of each channel.

    Returns:
        The end of an error message, or None if there is no obstacle.
    """
    capability = gpu_capability()
    if capability is not None and capability < HOPPER:
        found = ".".join(map(str, capability))
        return f"needs an NVIDIA GPU of compute capability 9.0 (H100) or higher, not {found}"
    if states not in STATES:
        sizes = ", ".join(map(str, STATES))
        return f"takes a state size of {sizes}, not {states}"
    return channels_obstacle(channels, CHANNELS)


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
    padding = ((0, 0), (0, -L % TILE), (0, 0))
    # Padded positions have dt = 0: decay 1 and no input, so they do not change the state.
    u, dt = jnp.pad(u_BxLxE, padding), jnp.pad(dt_BxLxE, padding)
    keep = jnp.broadcast_to(keep_BxL[..., None], (*keep_BxL.shape, ALIGNMENT))
    maps_BxLxR = jnp.pad(jnp.concatenate([b_BxLxN, c_BxLxN, keep], axis=-1), padding)
    return _scan(u, dt, a_NxE, maps_BxLxR, interpret)[:, :L]


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _scan(u, dt, a_NxE, maps_BxLxR, interpret: bool) -> jax.Array:
    call = partial(_forward_call, keep_states=False, interpret=interpret)
    inputs = ("positions", "positions", "rates", "maps")
    return on_each_device(call, inputs, ("positions",))(u, dt, a_NxE, maps_BxLxR)[0]


def _forward(u, dt, a_NxE, maps_BxLxR, interpret: bool):
    call = partial(_forward_call, keep_states=True, interpret=interpret)
    inputs, outputs = ("positions", "positions", "rates", "maps"), ("positions", "states")
    y, first = on_each_device(call, inputs, outputs)(u, dt, a_NxE, maps_BxLxR)
    return y, (u, dt, a_NxE, maps_BxLxR, first)


def _backward(interpret: bool, residuals, g):
    u, dt, a_NxE, maps_BxLxR, first = residuals
    call = on_each_device(
        partial(_backward_call, interpret=interpret),
        ("positions", "positions", "rates", "maps", "states", "positions"),
        ("positions", "positions", "rates_by_row", "maps_by_block"),
    )
    du, ddt, da, dmaps = call(u, dt, a_NxE, maps_BxLxR, first, g)
    dmaps = jnp.sum(dmaps, axis=1)
    # Zeros as the gradient of keep, which is data.
    dmaps = jnp.pad(dmaps, ((0, 0), (0, 0), (0, ALIGNMENT)))
    return du, ddt, jnp.sum(da, axis=0), dmaps


_scan.defvjp(_forward, _backward)


# --- one device ----------------------------------------------------------------------------------


def _forward_call(u, dt, a_NxE, maps_BxLxR, *, keep_states: bool, interpret: bool):
    """Return y [B, L, E] and, if ``keep_states``, the state before each tile [B, tiles, N, E]."""
    pl, plgpu = _pallas()
    (B, L, E), N = u.shape, a_NxE.shape[0]
    tiles = L // TILE
    states = (jax.ShapeDtypeStruct((B, tiles, N, E), jnp.float32),) if keep_states else ()

    def kernel(u_hbm, dt_hbm, a_hbm, maps_hbm, y_hbm, *rest):
        *first_hbm, u_ref, dt_ref, maps_ref, ready = rest
        row, channels = _mine()
        a = [a_hbm[n, channels] for n in range(N)]
        tile_inputs = _Tiles([(u_hbm, u_ref), (dt_hbm, dt_ref)], (maps_hbm, maps_ref), ready)
        for tile in range(min(STAGES, tiles)):
            tile_inputs.fetch(tile, tile)

        def walk(tile, h):
            if keep_states:
                for n in range(N):
                    first_hbm[0][row, tile, n, channels] = h[n]
            slot = tile_inputs.wait(tile)

            def positions(i, h):
                for t in (i * UNROLL + j for j in range(UNROLL)):
                    at = _Position(u_ref.at[slot, t], dt_ref.at[slot, t], maps_ref.at[slot, t], N)
                    _, h = at.advance(a, h)
                    y_hbm[row, tile * TILE + t, channels] = sum(at.c(n) * h[n] for n in range(N))
                return h

            h = lax.fori_loop(0, TILE // UNROLL, positions, h)
            plgpu.commit_smem()  # a barrier: all threads have read the tile, its slot is free

            @pl.when(tile + STAGES < tiles)
            def refill():
                tile_inputs.fetch(tile + STAGES, slot)

            return h

        lax.fori_loop(0, tiles, walk, _zeros(a))

    return _launch(
        kernel,
        (B, E // CHANNELS),
        name="selective_scan_forward",
        out_type=(jax.ShapeDtypeStruct((B, L, E), jnp.float32), *states),
        scratch_types=[
            plgpu.SMEM((STAGES, TILE, CHANNELS), u.dtype),
            plgpu.SMEM((STAGES, TILE, CHANNELS), jnp.float32),
            plgpu.SMEM((STAGES, TILE, maps_BxLxR.shape[2]), jnp.float32),
            plgpu.Barrier(num_arrivals=3, num_barriers=STAGES),
        ],
        interpret=interpret,
    )(u, dt, _per_doubling(a_NxE), maps_BxLxR)


def _backward_call(u, dt, a_NxE, maps_BxLxR, first, g, *, interpret: bool):
    """Return the gradients of one device.

    Returns:
        Gradients by u and dt, [B, L, E]; by A for each row, [B, N, E]; by B and C for each block of
        channels, [B, blocks, L, 2N].
    """
    pl, plgpu = _pallas()
    (B, L, E), N = u.shape, a_NxE.shape[0]
    tiles, together = L // TILE, ROWS // (2 * N)  # together: positions in registers at once
    steps = TILE // together

    def kernel(
        u_hbm, dt_hbm, a_hbm, maps_hbm, first_hbm, g_hbm, du_hbm, ddt_hbm, da_hbm, dmaps_hbm,
        u_ref, dt_ref, g_ref, maps_ref, before_ref, summands_ref, ready,
    ):  # fmt: skip
        row, channels = _mine()
        a = [a_hbm[n, channels] for n in range(N)]
        wide = [(u_hbm, u_ref), (dt_hbm, dt_ref), (g_hbm, g_ref)]
        tile_inputs = _Tiles(wide, (maps_hbm, maps_ref), ready)
        for i in range(min(STAGES, tiles)):
            tile_inputs.fetch(tiles - 1 - i, i)

        def walk(i, carry):
            tile = tiles - 1 - i
            h = tuple(first_hbm[row, tile, n, channels] for n in range(N))
            slot = tile_inputs.wait(i)

            def position(t):
                return _Position(u_ref.at[slot, t], dt_ref.at[slot, t], maps_ref.at[slot, t], N)

            def note(step, h):
                for n in range(N):
                    before_ref[step, n] = h[n]
                for q in range(together):
                    _, h = position(step * together + q).advance(a, h)
                return h

            lax.fori_loop(0, steps, note, h)

            def back(j, carry):
                dh, da = (list(x) for x in carry)
                step = steps - 1 - j
                decays, states = [], [[before_ref[step, n] for n in range(N)]]
                for q in range(together):
                    decay, h = position(step * together + q).advance(a, states[-1])
                    decays.append(decay)
                    states.append(h)
                # Alternate between two buffers: other threads may still read the previous one.
                mine = summands_ref.at[lax.rem(j, 2)]
                for q in reversed(range(together)):
                    t = step * together + q
                    at, slope = position(t), g_ref[slot, t]
                    step_input = rate = 0.0  # gradients of dt·u, and of dt through the decay
                    for n in range(N):
                        mine[2 * N * q + N + n, pl.ds(0, CHANNELS)] = states[q + 1][n] * slope
                        dh[n] = dh[n] + at.c(n) * slope
                        mine[2 * N * q + n, pl.ds(0, CHANNELS)] = dh[n] * at.input
                        step_input = step_input + dh[n] * at.b(n)
                        dh[n] = dh[n] * decays[q][n]
                        exponent = dh[n] * states[q][n]  # gradient of dt·A
                        da[n] = da[n] + exponent * at.dt
                        rate = rate + exponent * a[n]
                    du_hbm[row, tile * TILE + t, channels] = (step_input * at.dt).astype(u.dtype)
                    ddt = step_input * at.u + rate * math.log(2)
                    ddt_hbm[row, tile * TILE + t, channels] = ddt
                plgpu.commit_smem()
                sums = jnp.sum(_by_rows(mine.at[:, pl.ds(0, CHANNELS)], interpret), axis=1)
                rows = pl.ds((tile * TILE + step * together) * 2 * N, ROWS)
                dmaps_hbm[row, lax.axis_index("block"), rows] = sums
                return tuple(dh), tuple(da)

            carry = lax.fori_loop(0, steps, back, carry)

            # All threads have passed the barrier of the last step and no longer read the tile.
            @pl.when(i + STAGES < tiles)
            def refill():
                tile_inputs.fetch(tile - STAGES, slot)

            return carry

        _, da = lax.fori_loop(0, tiles, walk, (_zeros(a), _zeros(a)))
        for n in range(N):
            da_hbm[row, n, channels] = da[n]

    places = (STAGES, TILE, CHANNELS)
    du, ddt, da, dmaps = _launch(
        kernel,
        (B, E // CHANNELS),
        name="selective_scan_backward",
        out_type=(
            jax.ShapeDtypeStruct((B, L, E), u.dtype),
            jax.ShapeDtypeStruct((B, L, E), jnp.float32),
            jax.ShapeDtypeStruct((B, N, E), jnp.float32),
            jax.ShapeDtypeStruct((B, E // CHANNELS, L * 2 * N), jnp.float32),
        ),
        scratch_types=[
            plgpu.SMEM(places, u.dtype),
            plgpu.SMEM(places, jnp.float32),
            plgpu.SMEM(places, jnp.float32),
            plgpu.SMEM((STAGES, TILE, maps_BxLxR.shape[2]), jnp.float32),
            plgpu.SMEM((steps, N, CHANNELS), jnp.float32),
            plgpu.SMEM((2, ROWS, CHANNELS + PADDING), jnp.float32),
            plgpu.Barrier(num_arrivals=4, num_barriers=STAGES),
        ],
        interpret=interpret,
    )(u, dt, _per_doubling(a_NxE), maps_BxLxR, first, g)
    return du, ddt, da, dmaps.reshape(B, E // CHANNELS, L, 2 * N)


class _Position:
    """Inputs of one position in the registers of a thread.

    B, C and keep are the same for all threads and stay in shared memory.
    """

    def __init__(self, u_ref: Any, dt_ref: Any, maps_ref: Any, states: int) -> None:
        self.u, self.dt = u_ref[...].astype(jnp.float32), dt_ref[...]
        self.input = self.dt * self.u
        self._maps_ref, self._states = maps_ref, states

    def b(self, n: int) -> jax.Array:
        """Return B[t, n]."""
        return self._maps_ref[n]

    def c(self, n: int) -> jax.Array:
        """Return C[t, n]."""
        return self._maps_ref[self._states + n]

    def advance(self, a, h) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Return the decays of the N states and the states after this position."""
        keep = self._maps_ref[2 * self._states]
        decays = tuple(jnp.exp2(self.dt * rate) * keep for rate in a)
        after = (decay * h_n + self.input * self.b(n) for n, (decay, h_n) in _pairs(decays, h))
        return decays, tuple(after)


def _pairs(left, right):
    return enumerate(zip(left, right, strict=True))


class _Tiles:
    """Copies of this block's tiles from HBM to ``STAGES`` slots of shared memory."""

    def __init__(self, wide: list[tuple[Any, Any]], maps: tuple[Any, Any], ready: Any) -> None:
        self.wide, self.maps, self.ready = wide, maps, ready
        self.row, self.channels = _mine()

    def fetch(self, tile, slot) -> None:
        """Start to copy a tile into a slot."""
        pl, plgpu = _pallas()
        positions, ready = pl.ds(tile * TILE, TILE), self.ready.at[slot]
        for hbm, ref in self.wide:
            source = hbm.at[self.row, positions, self.channels]
            plgpu.copy_gmem_to_smem(source, ref.at[slot], ready)
        maps_hbm, maps_ref = self.maps
        plgpu.copy_gmem_to_smem(maps_hbm.at[self.row, positions], maps_ref.at[slot], ready)

    def wait(self, i) -> jax.Array:
        """Wait until the i-th fetched tile has arrived; return its slot."""
        slot = lax.rem(i, STAGES)
        _pallas()[1].barrier_wait(self.ready.at[slot])
        return slot


def _mine() -> tuple[jax.Array, Any]:
    """Return the row and the channels of this block of threads."""
    first = lax.axis_index("block") * CHANNELS
    return lax.axis_index("row"), _pallas()[0].ds(first, CHANNELS)


def _zeros(like) -> tuple[jax.Array, ...]:
    """Return zeros with the register layout of ``like``.

    They are computed as a product, because a constant would have another layout.
    """
    return tuple(0.0 * x for x in like)


def _per_doubling(a_NxE: jax.Array) -> jax.Array:
    """Convert rates from base e to base 2: the hardware has an instruction for powers of 2."""
    return a_NxE * math.log2(math.e)


def _by_rows(ref: Any, interpret: bool) -> jax.Array:
    """Load the summands in a layout in which four threads hold a row; the interpreter has no
    layouts.
    """
    if interpret:
        return ref[...]
    plgpu = _pallas()[1]
    return plgpu.load(ref, (), layout=plgpu.Layout.WGMMA, optimized=False)


def _launch(kernel: Any, grid: tuple[int, int], *, name: str, interpret: bool, **types: Any) -> Any:
    _, plgpu = _pallas()
    return plgpu.kernel(
        kernel,
        grid=grid,
        grid_names=("row", "block"),
        kernel_name=name,
        compiler_params=plgpu.CompilerParams(
            approx_math=True,
            # The kernels set their own barriers; a barrier after each access would be slow.
            unsafe_no_auto_barriers=True,
            # Take the register layouts from the loads; the default of jax 0.11 infers them.
            lowering_semantics=plgpu.LoweringSemantics.Lane,
        ),
        interpret=_interpreter() if interpret else None,
        **types,
    )


def _interpreter() -> Any:
    plgpu = _pallas()[1]
    if hasattr(plgpu, "InterpretGPUParams"):
        return plgpu.InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams  # jax 0.10

    return InterpretGPUParams()


def _pallas() -> tuple[Any, Any]:
    """Import Pallas late, because the import takes 0.5 s and other backends do not need it."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    return pl, plgpu
