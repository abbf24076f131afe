"""Compile one training step ahead of time and report what the compiled program needs."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from lossline.compilation import hlo
from lossline.compilation.collectives import Collective, collectives
from lossline.compilation.flops import Jaxpr, matmul_flops
from lossline.compilation.kernels import kernel_bytes
from lossline.compilation.targets import Target, fits
from lossline.ops.backend import compiling_for
from lossline.training.make_trainer import make_trainer, step_arguments
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer

# XLA's messages for a program that needs more memory than exists.
_WORDINGS = (
    r"Used ([\d.]+)([KMGT])i?B? of [\d.]+[KMGT]",
    r"required for HLO temporaries \(([\d.]+)([KMGT])i?B?\)",
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of a program in bytes per device.

    Attributes:
        arguments: parameters, optimizer state and batch.
        temporaries: arrays that exist only during the step.
        results: arrays that the step returns.
        reused: results that reuse the memory of an argument.
        code: the program itself.
    """

    arguments: float
    temporaries: float
    results: float
    reused: float
    code: float

    @property
    def peak(self) -> float:
        """Bytes that must fit: arguments + temporaries + results - reused + code."""
        return self.arguments + self.temporaries + self.results - self.reused + self.code


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """Report of one compiled step, per device unless stated otherwise.

    Attributes:
        topology: name of the target.
        chip: name of the device.
        devices: number of devices.
        mesh: axis -> devices.
        microbatches, remat, batch_size, context_length: options of the compiled step.
        rings: what decides about rings ("on", "off", "LIBTPU_INIT_ARGS"); None without a TPU.
        total_steps: steps of the whole training.
        compile_seconds: time of the compilation.
        fits: whether the peak fits the device.
        memory_limit: bytes that a program may use; None if unknown.
        needed: bytes at peak; if the compiler gave up, the bytes that it reported (NaN if it did
            not); if the state alone is too large, the bytes of the state.
        state_bytes: bytes of parameters and optimizer state.
        memory: None if the step was not compiled or does not fit.
        model_flops: operations of the model, counted like ``mfu`` of lossline.train
            (lossline/training/hardware.py).
        causal_flops: the same, counted like ``mfu_causal``.
        executed_flops: operations of executed matrix products, recomputation included.
        memory_bytes: bytes moved from and to HBM.
        collectives: communication by kind and mesh axes.
        compute_seconds, memory_seconds, wire_seconds: lower bounds of the step time from each; None
            if the data sheet of the device is unknown.
        unknown_loops: loops without a known length, counted as one trip.
        peak_flops: FLOP/s of the device; None if unknown.
    """

    topology: str
    chip: str
    devices: int
    mesh: dict[str, int]
    microbatches: int
    remat: str
    batch_size: int
    context_length: int
    total_steps: int
    compile_seconds: float
    fits: bool
    memory_limit: float | None
    needed: float
    state_bytes: float = 0.0
    memory: Memory | None = None
    model_flops: float = 0.0
    causal_flops: float = 0.0
    executed_flops: float = 0.0
    memory_bytes: float = 0.0
    collectives: tuple[Collective, ...] = ()
    compute_seconds: float | None = None
    memory_seconds: float | None = None
    wire_seconds: float | None = None
    unknown_loops: int = 0
    rings: str | None = None
    peak_flops: float | None = None

    @property
    def state_alone(self) -> bool:
        """Whether parameters and optimizer state alone are too large; then nothing was compiled."""
        return self.memory_limit is not None and self.state_bytes > self.memory_limit

    @property
    def tokens_per_step(self) -> int:
        """Target tokens of one update, all devices."""
        return self.batch_size * self.context_length

    @property
    def step_seconds(self) -> float | None:
        """Roofline bound: the largest of compute, memory and wire time, perfectly overlapped."""
        bounds = (self.compute_seconds, self.memory_seconds, self.wire_seconds)
        known = [bound for bound in bounds if bound is not None]
        return max(known) if known else None

    @property
    def mfu_causal_bound(self) -> float | None:
        """Upper bound of the causal MFU, at most 1.

        It is the model's causal operations divided by what the device could do in ``step_seconds``.
        """
        if self.step_seconds is None or self.peak_flops is None:
            return None
        return self.causal_flops / (self.peak_flops * self.step_seconds)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens per second of all devices at the roofline."""
        return self.tokens_per_step / self.step_seconds if self.step_seconds else None


def trainer_for(options: TrainOptions, target: Target) -> Trainer:
    """Return the trainer that ``lossline.train`` would make, on the devices of the target.

    Raises:
        UserError: the mesh does not fit the devices, the batch or the model.
    """
    trainer = make_trainer(options, devices=target.devices)  # type: ignore[arg-type]
    # Build the step before entering the mesh: optax makes small arrays, which need real devices.
    _ = trainer.step
    return trainer


def state_bytes(trainer: Trainer) -> float:
    """Return the bytes of parameters and optimizer state on one device."""
    leaves = jax.tree.leaves(trainer.abstract_state)
    shards = (leaf.sharding.shard_shape(leaf.shape) for leaf in leaves)
    return float(
        sum(math.prod(s) * leaf.dtype.itemsize for s, leaf in zip(shards, leaves, strict=True))
    )


def analyze(options: TrainOptions, target: Target) -> StepReport:
    """Compile the whole training step with its real shardings and read the compiled program.

    A step that does not fit gives a report with ``fits`` false, not an error.

    Raises:
        UserError: the options do not fit the devices or the model, or the text of the compiled
            program cannot be read.
    """
    trainer = trainer_for(options, target)
    state = state_bytes(trainer)
    if not fits(target.chip, state):
        return _report(options, target, trainer, 0.0, state)
    started = time.monotonic()
    backend = compiling_for(target.backend, capability=target.capability)
    with backend, jax.set_mesh(trainer.mesh):
        traced = trainer.step.trace(*step_arguments(options, trainer))  # type: ignore[attr-defined]
        lowered = traced.lower()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            needed = out_of_memory(str(error))
            if needed is None:
                raise
            return _report(options, target, trainer, time.monotonic() - started, needed)
    seconds = time.monotonic() - started
    return _analyzed(options, target, trainer, seconds, compiled, traced.jaxpr)


def memory_of(compiled: Any) -> Memory:
    """Return the memory of a compiled program."""
    stats = compiled.memory_analysis()
    return Memory(
        arguments=float(stats.argument_size_in_bytes),
        temporaries=float(stats.temp_size_in_bytes),
        results=float(stats.output_size_in_bytes),
        reused=float(stats.alias_size_in_bytes),
        code=float(stats.generated_code_size_in_bytes),
    )


def out_of_memory(message: str) -> float | None:
    """Return the bytes in the compiler's message that memory is too small.

    The result is NaN if the message gives no number, and None for any other message.
    """
    if "RESOURCE_EXHAUSTED" not in message and "Ran out of memory" not in message:
        return None
    found = next((found for wording in _WORDINGS if (found := re.search(wording, message))), None)
    if found is None:
        return math.nan
    return float(found.group(1)) * 1024.0 ** (1 + "KMGT".index(found.group(2)))


def _report(
    options: TrainOptions, target: Target, trainer: Trainer, seconds: float, needed: float,
    **measured: Any,
) -> StepReport:  # fmt: skip
    return StepReport(
        topology=target.name,
        chip=target.chip.name,
        devices=len(target.devices),
        mesh=dict(trainer.mesh.shape),
        microbatches=options.microbatches,
        remat=str(getattr(options.model, "remat", "none")),
        batch_size=options.batch_size,
        context_length=options.length,
        total_steps=options.total_steps,
        compile_seconds=seconds,
        fits=bool(measured) and fits(target.chip, needed),
        memory_limit=target.chip.memory,
        needed=needed,
        state_bytes=state_bytes(trainer),
        rings=trainer.chosen_rings,
        peak_flops=target.chip.flops,
        **measured,
    )


def _analyzed(
    options: TrainOptions, target: Target, trainer: Trainer, seconds: float, compiled: Any,
    jaxpr: Jaxpr,
) -> StepReport:  # fmt: skip
    memory = memory_of(compiled)
    program = hlo.Program.parse(compiled.as_text())
    shape = tuple(trainer.mesh.shape.values())
    wires = tuple(collectives(program, shape, tuple(trainer.mesh.shape)))
    devices = len(target.devices)
    executed = matmul_flops(jaxpr)
    traffic = hlo.memory_traffic(program) + kernel_bytes(jaxpr) / devices
    tokens = options.batch_size * options.length
    causal = options.causal_flops_per_token * tokens
    # Operations of a scan are not matrix products, but no unit runs faster than the matrix unit.
    least = max(executed, causal) / devices
    chip = target.chip
    return _report(
        options,
        target,
        trainer,
        seconds,
        memory.peak,
        memory=memory,
        model_flops=options.flops_per_token * tokens / devices,
        causal_flops=causal / devices,
        executed_flops=executed / devices,
        memory_bytes=traffic,
        collectives=wires,
        compute_seconds=least / chip.flops if chip.flops else None,
        memory_seconds=traffic / chip.bandwidth if chip.bandwidth else None,
        wire_seconds=_wire_seconds(wires, chip.link),
        unknown_loops=program.unknown_loops,
    )


def _wire_seconds(wires: Sequence[Collective], link: float | None) -> float | None:
    """Return the sum of all wire times, because collectives over different axes mostly wait."""
    return None if link is None else sum(row.wire_bytes for row in wires) / link
