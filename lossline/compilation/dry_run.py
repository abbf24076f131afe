"""What a training costs, before it starts: ``python -m lossline.train --dry_run``.

The step is compiled for the devices at hand, which tells its memory. If it is short enough, a few
steps run on zeros, which tells the rate. Otherwise the rate of a matrix product and the model's
FLOPs give an estimate. Nothing is written.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lossline.compilation.analysis import Memory, memory_of, out_of_memory, trainer_for
from lossline.compilation.targets import Target, find_target, fits
from lossline.errors import NotMadeYet
from lossline.heap import limit_kept_memory, machine_bytes
from lossline.places import in_bucket
from lossline.runs.run_directory import RunState
from lossline.terminal import duration
from lossline.training.loop import check
from lossline.training.make_trainer import step_arguments
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer, host_buffers

_LONGEST_STEP = 5.0  # seconds that a step may be expected to take, to be tried
_SECONDS_TRIED = 3.0
_USUAL_SHARE = 0.4  # of the rate of a large product that a whole step usually reaches


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a training costs on the devices at hand.

    Attributes:
        product_flops: FLOP/s of one matrix product in the model's type, on all devices.
        memory: of the step, per device; None if it does not fit.
        needed: bytes per device.
        limit: bytes that a device has; None if unknown.
        compile_seconds: time of the compilation.
        tokens_per_second: expected rate; None if the step does not fit.
        tried: steps that were run to measure the rate; 0: it is an estimate.
        disk: bytes of all checkpoints of the finished run, at most.
    """

    product_flops: float
    memory: Memory | None
    needed: float
    limit: float | None
    compile_seconds: float
    tokens_per_second: float | None
    tried: int
    disk: float


def print_cost(options: TrainOptions) -> Cost:
    """Print what a training costs, and start nothing.

    Raises:
        UserError: the training could not start.
    """
    head = _run_line(options)
    target = find_target("here")
    trainer = trainer_for(options, target)
    print("\n".join([head, *_model_lines(options)]), flush=True)
    cost = measure(options, target, trainer)
    print("\n".join([*_cost_lines(options, target, cost), "nothing was written"]), flush=True)
    return cost


def measure(options: TrainOptions, target: Target, trainer: Trainer) -> Cost:
    """Compile the step, and run it a few times if it is short.

    Args:
        options: the training.
        target: the devices at hand.
        trainer: its trainer on them.
    """
    dtype = jnp.dtype(getattr(options.model, "activation_dtype", "float32"))
    # Several devices of one processor share its cores, and one product uses all of them.
    product = product_flops(dtype) * (1 if target.backend == "cpu" else len(target.devices))
    limit = _limit(target)
    began = time.monotonic()
    memory, needed, compiled = _compiled(options, trainer)
    compile_seconds = time.monotonic() - began
    flops = options.causal_flops_per_token * options.tokens_per_step
    expected = flops / (product * _USUAL_SHARE)
    fitting = compiled is not None and fits(target.chip, needed)
    fitting = fitting and needed <= (math.inf if limit is None else limit)
    rate, tried = None, 0
    if fitting and compiled is not None:
        rate = options.tokens_per_step / expected
        if expected <= _LONGEST_STEP:
            seconds, tried = _try(options, trainer, compiled)
            rate = options.tokens_per_step * tried / seconds
    return Cost(
        product_flops=product,
        memory=memory,
        needed=needed,
        limit=limit,
        compile_seconds=compile_seconds,
        tokens_per_second=rate,
        tried=tried,
        disk=checkpoint_bytes(options, trainer),
    )


def product_flops(dtype: Any, *, size: int = 1024, seconds: float = 0.3) -> float:
    """Return the FLOP/s of a square matrix product of this type on one device.

    Args:
        dtype: type of the factors.
        size: rows and columns.
        seconds: shortest time to measure.
    """
    factor = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a: a @ a)
    multiply(factor).block_until_ready()
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        for _ in range(2**count):  # more between two looks at the clock, for fast devices
            product = multiply(factor)
        product.block_until_ready()
        count += 1
    return 2.0 * size**3 * (2**count - 1) / (time.monotonic() - began)


def checkpoint_bytes(options: TrainOptions, trainer: Trainer) -> float:
    """Return the bytes of all checkpoints of the finished run, before compression."""
    parts = {
        part: sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for part, tree in trainer.abstract_state.items()
    }
    kept = len(options.checkpoints.kept_steps(options.total_steps))
    whole = min(kept, options.checkpoints.optimizer_states)
    return float(parts["params"] * kept + (sum(parts.values()) - parts["params"]) * whole)


def _compiled(
    options: TrainOptions, trainer: Trainer
) -> tuple[Memory | None, float, Callable[..., Any] | None]:
    """Return memory, bytes needed and the program of the step; None and NaN if it is too large."""
    try:
        compiled = trainer.compiled(*step_arguments(options, trainer))
    except jax.errors.JaxRuntimeError as error:
        needed = out_of_memory(str(error))
        if needed is None:
            raise
        return None, needed, None
    memory = memory_of(compiled)
    limit_kept_memory(host_buffers(compiled, trainer.mesh))
    return memory, memory.peak, compiled


def _try(
    options: TrainOptions, trainer: Trainer, compiled: Callable[..., Any]
) -> tuple[float, int]:
    """Run steps on zeros; return seconds and number of steps after the first one."""
    _, shapes, rates = step_arguments(options, trainer)
    batch = {
        name: jax.device_put(jnp.zeros(shape.shape, shape.dtype), shape.sharding)
        for name, shape in shapes.items()
    }
    state = trainer.init(jax.random.key(0))
    with jax.set_mesh(trainer.mesh):
        state, metrics = compiled(state, batch, rates)
        metrics.block_until_ready()
        began, steps = time.monotonic(), 0
        while steps < 2 or time.monotonic() - began < _SECONDS_TRIED:
            state, metrics = compiled(state, batch, rates)
            metrics.block_until_ready()
            steps += 1
        return time.monotonic() - began, steps


def _limit(target: Target) -> float | None:
    """Return the memory of one device; of a processor, what the machine has."""
    if target.chip.memory is not None or target.backend != "cpu":
        return target.chip.memory
    return float(machine_bytes()) / len(target.devices)


def _run_line(options: TrainOptions) -> str:
    """Return the run directory and its state, after every check that a training makes."""
    try:
        run = check(options)
    except NotMadeYet as missing:
        return f"{'run':10s} {options.name}: cannot start yet: {missing}"
    if not (run.path / "config.json").exists():
        return f"{'run':10s} {run.path}: new"
    if run.status.state is RunState.FINISHED:
        return f"{'run':10s} {run.path}: finished, nothing to do"
    return f"{'run':10s} {run.path}: continues from step {run.status.step}"


def _model_lines(options: TrainOptions) -> list[str]:
    counts = options.model.num_params()
    return [
        f"{'model':10s} {options.model.family}, {counts.total:,.0f} parameters "
        f"({counts.non_embedding:,.0f} without embeddings)",
        f"{'training':10s} {options.total_steps:,} steps of {options.batch_size} × "
        f"{options.length} tokens: {options.total_tokens / 1e6:,.2f}M tokens, "
        f"{options.total_tokens * options.flops_per_token:.3g} FLOPs "
        f"({options.flops_per_token:.3g} per token)",
    ]


def _cost_lines(options: TrainOptions, target: Target, cost: Cost) -> list[str]:
    share = "" if cost.limit is None else f" of {cost.limit / 2**30:.2f} GiB"
    lines = [
        f"{'device':10s} {len(target.devices)} × {target.chip.name}, a matrix product reaches "
        f"{cost.product_flops / 1e9:,.0f} GFLOP/s",
    ]
    if cost.tokens_per_second is None:
        needed = "more" if math.isnan(cost.needed) else f"{cost.needed / 2**30:.2f} GiB"
        fix = "python -m lossline.compile --search finds settings that fit"
        return [*lines, f"{'memory':10s} does not fit: needs {needed}{share} a device; {fix}"]
    seconds = options.total_tokens / cost.tokens_per_second
    how = (
        f"measured on {cost.tried} steps"
        if cost.tried
        else f"an estimate: the model's FLOPs at {_USUAL_SHARE:.0%} of the matrix product's rate"
    )
    free = _free(options)
    return [
        *lines,
        f"{'memory':10s} {cost.needed / 2**30:.2f} GiB{share} a device, at the peak of a step",
        f"{'speed':10s} about {cost.tokens_per_second:,.0f} tokens/s ({how})",
        f"{'time':10s} about {duration(seconds + cost.compile_seconds)}: compilation "
        f"{duration(cost.compile_seconds)}, training {duration(seconds)}",
        f"{'disk':10s} at most {cost.disk / 1e6:,.1f} MB: "
        f"{len(options.checkpoints.kept_steps(options.total_steps))} checkpoints{free}",
    ]


def _free(options: TrainOptions) -> str:
    folder = Path(options.directory or options.root)
    if in_bucket(folder):
        return ""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return f"; {shutil.disk_usage(there).free / 1e6:,.0f} MB are free"
