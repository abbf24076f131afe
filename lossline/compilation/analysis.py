"""Compiling one training step ahead of time, and what the compiled program says about it."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax

from lossline.compilation import hlo
from lossline.compilation.flops import Jaxpr, matmul_flops
from lossline.compilation.kernels import kernel_bytes
from lossline.compilation.targets import Target, fits
from lossline.ops.backend import compiling_for
from lossline.training.make_trainer import make_trainer, step_arguments
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer

# How XLA says what it would need when that is more than there is.
_WORDINGS = (
    r"Used ([\d.]+)([KMGT])i?B? of [\d.]+[KMGT]",
    r"required for HLO temporaries \(([\d.]+)([KMGT])i?B?\)",
)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes per device. Peak = arguments + temporaries + results that reuse no argument + code."""

    arguments: float
    temporaries: float
    results: float
    reused: float
    code: float

    @property
    def peak(self) -> float:
        """Bytes that must fit."""
        return self.arguments + self.temporaries + self.results - self.reused + self.code


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One compiled step, per device unless said otherwise.

    Attributes:
      mesh: axis -> devices; microbatches, remat, batch_size: as compiled.
      fits: whether the peak fits the chip; memory: None where the compiler gave up for lack of it;
        needed: bytes it said it needs, or those of the state if they alone are too many.
      state_bytes: of parameters and optimizer state.
      executed_flops: of matrix products, recomputation included; model_flops: the model's own, as
        lossline.train's ``mfu`` counts them (lossline/training/hardware.py); causal_flops: as its
        ``mfu_causal`` does.
      memory_bytes: moved to and from HBM; collectives: by kind and mesh axes.
      compute_seconds, memory_seconds, wire_seconds: lower bounds of the step by each; None where
        the chip's data sheet is not known.
      unknown_loops: loops whose length the program does not tell, counted once.
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
    collectives: tuple[hlo.Collective, ...] = ()
    compute_seconds: float | None = None
    memory_seconds: float | None = None
    wire_seconds: float | None = None
    unknown_loops: int = 0
    peak_flops: float | None = None

    @property
    def state_alone(self) -> bool:
        """Whether parameters and optimizer state alone are too much: then nothing was compiled."""
        return self.memory_limit is not None and self.state_bytes > self.memory_limit

    @property
    def tokens_per_step(self) -> int:
        """Target tokens of one update, all devices."""
        return self.batch_size * self.context_length

    @property
    def step_seconds(self) -> float | None:
        """Roofline: the slowest of compute, memory and wires, everything overlapped perfectly."""
        bounds = (self.compute_seconds, self.memory_seconds, self.wire_seconds)
        known = [bound for bound in bounds if bound is not None]
        return max(known) if known else None

    @property
    def mfu_causal_bound(self) -> float | None:
        """The model's causal operations over what the chip could do in `step_seconds`: no step can
        beat it, and it is at most 1."""
        if self.step_seconds is None or self.peak_flops is None:
            return None
        return self.causal_flops / (self.peak_flops * self.step_seconds)

    @property
    def tokens_per_second(self) -> float | None:
        """All devices, at the roofline."""
        return self.tokens_per_step / self.step_seconds if self.step_seconds else None


def trainer_for(options: TrainOptions, target: Target) -> Trainer:
    """The trainer that `lossline.train` would make, on the target's devices.

    Raises:
      UserError: the mesh fits neither the devices, nor the batch, nor the model.
    """
    trainer = make_trainer(options, devices=target.devices)  # type: ignore[arg-type]
    # Made before the mesh is entered: optax builds small arrays, which only real devices hold.
    _ = trainer.step
    return trainer


def state_bytes(trainer: Trainer) -> float:
    """Bytes of parameters and optimizer state on one device."""
    leaves = jax.tree.leaves(trainer.abstract_state)
    shards = (leaf.sharding.shard_shape(leaf.shape) for leaf in leaves)
    return float(
        sum(math.prod(s) * leaf.dtype.itemsize for s, leaf in zip(shards, leaves, strict=True))
    )


def analyze(options: TrainOptions, target: Target) -> StepReport:
    """Compile the whole training step with its real shardings, and read the compiled program.

    A step that does not fit is a report with ``fits`` false, not an error.

    Raises:
      UserError: the options do not fit the target's devices or the model.
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


def out_of_memory(message: str) -> float | None:
    """Bytes that the compiler says it needs, if the message is that they are not there."""
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
        peak_flops=target.chip.flops,
        **measured,
    )


def _analyzed(
    options: TrainOptions, target: Target, trainer: Trainer, seconds: float, compiled: Any,
    jaxpr: Jaxpr,
) -> StepReport:  # fmt: skip
    stats = compiled.memory_analysis()
    memory = Memory(
        arguments=float(stats.argument_size_in_bytes),
        temporaries=float(stats.temp_size_in_bytes),
        results=float(stats.output_size_in_bytes),
        reused=float(stats.alias_size_in_bytes),
        code=float(stats.generated_code_size_in_bytes),
    )
    program = hlo.Program.parse(compiled.as_text())
    shape = tuple(trainer.mesh.shape.values())
    wires = tuple(hlo.collectives(program, shape, tuple(trainer.mesh.shape)))
    devices = len(target.devices)
    executed = matmul_flops(jaxpr)
    traffic = hlo.memory_traffic(program) + kernel_bytes(jaxpr) / devices
    tokens = options.batch_size * options.length
    causal = options.causal_flops_per_token * tokens
    # A scan's own operations are no matrix products, and nothing computes faster than those.
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


def _wire_seconds(wires: Sequence[hlo.Collective], link: float | None) -> float | None:
    """Collectives over different axes mostly wait for each other: their times add up."""
    return None if link is None else sum(row.wire_bytes for row in wires) / link
