"""Try meshes, remat policies, microbatches and rings to find the best that fits."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from lossline.compilation.analysis import StepReport, analyze, trainer_for
from lossline.compilation.hlo import UnreadableProgram
from lossline.compilation.targets import Target, slices_of
from lossline.errors import UserError
from lossline.sharding import MeshOptions, Rings, chosen_rings
from lossline.sharding.mesh import resolved
from lossline.training.options import TrainOptions

REMAT = ("none", "dots", "full")
MICROBATCHES = (1, 2, 4, 8, 16, 32, 64)
TENSOR = (1, 2, 4, 8)
FSDP = (32, 16, 8)
TILE = 128
# Settings that are compiled a second time with rings, and the part of all compilations for them.
WITH_RINGS = 3
RINGS_SHARE = 0.25
# Rings can need less memory than gathers, so a setting may be up to this factor too large for them.
NEARLY = 1.2
# Temporaries can shrink by up to this factor more than the microbatches.
SLACK = 1.5

Trial = tuple[TrainOptions, StepReport | str]
Compiled = tuple[TrainOptions, StepReport]
Say = Callable[[str], None]


def variants(options: TrainOptions, devices: int) -> Iterator[list[list[TrainOptions]]]:
    """Yield per mesh a list per remat policy: the same training with more and more microbatches.

    The state is split over as many devices as leave a shard of the width at least one tile (128
    lanes), then over fewer. Smaller shards come last: a TPU gathers them by all-reduce, which sends
    twice the bytes.
    """
    for tensor in TENSOR:
        if devices % (tensor * options.mesh.sequence):
            continue
        rest = devices // (tensor * options.mesh.sequence)
        sharded = [rest, *(ways for ways in FSDP if ways < rest and rest % ways == 0)]
        sharded.sort(key=lambda ways: options.model.width < TILE * ways)
        for fsdp in dict.fromkeys([*sharded, 1]):
            data = rest // fsdp
            mesh = dataclasses.replace(options.mesh, data=data, fsdp=fsdp, tensor=tensor)
            yield [_microbatched(options, mesh, remat) for remat in _policies(options.model)]


def _policies(model: Any) -> tuple[str, ...]:
    return REMAT if hasattr(model, "remat") else ("",)


def _microbatched(options: TrainOptions, mesh: MeshOptions, remat: str) -> list[TrainOptions]:
    model = _with_remat(options.model, remat) if remat else options.model
    ways = mesh.data * mesh.fsdp
    return [
        dataclasses.replace(options, mesh=mesh, model=model, microbatches=parts)
        for parts in MICROBATCHES
        if options.batch_size % (ways * parts) == 0
    ]


def _with_remat(model: Any, remat: str) -> Any:
    """Return the model with another remat policy, or unchanged if it has none."""
    return dataclasses.replace(model, remat=remat) if hasattr(model, "remat") else model


def search(
    options: TrainOptions, target: Target, *, max_trials: int, say: Say = print
) -> list[Trial]:
    """Compile variants and print each, without rings first; then the best ones with rings.

    A TPU has rings (``lossline.sharding.rings``); elsewhere, or if a flag of the user decides about
    them, every setting is tried once.

    Args:
        options: the training.
        target: devices to compile for.
        max_trials: largest number of compilations.
        say: function that prints a line.
    """
    if chosen_rings(Rings.AUTO, target.backend) != Rings.OFF.value:
        return _search_settings(_with_rings(options, Rings.AUTO), target, max_trials, say)
    kept = min(WITH_RINGS, int(RINGS_SHARE * max_trials))
    trials = _search_settings(_with_rings(options, Rings.OFF), target, max_trials - kept, say)
    for choice, _ in _ranked(trials)[:kept]:
        ringed = _with_rings(choice, Rings.ON)
        result = attempt(ringed, target)
        trials.append((ringed, result))
        say(describe(ringed, result))
    return trials


def _with_rings(options: TrainOptions, rings: Rings) -> TrainOptions:
    return dataclasses.replace(options, mesh=dataclasses.replace(options.mesh, rings=rings))


def _ranked(trials: list[Trial]) -> list[Compiled]:
    """Return the trials that fit, fastest first, then those that nearly fit, smallest first."""
    made = _reports(trials)
    nearly = [
        (choice, report)
        for choice, report in made
        if not (report.fits or report.state_alone)
        and report.needed <= NEARLY * (report.memory_limit or math.inf)
    ]
    fitting = [(choice, report) for choice, report in made if report.fits]
    return [
        *sorted(fitting, key=lambda trial: _slowness(trial[1])),
        *sorted(nearly, key=lambda trial: trial[1].needed),
    ]


def _reports(trials: list[Trial]) -> list[Compiled]:
    """Return the trials without those that were refused."""
    return [(choice, report) for choice, report in trials if isinstance(report, StepReport)]


def _search_settings(
    options: TrainOptions, target: Target, max_trials: int, say: Say
) -> list[Trial]:
    """Compile variants; per mesh and policy, find the fewest microbatches that fit.

    A variant that the model or the mesh refuses is reported with the reason. A variant whose state
    alone does not fit is not compiled. If a policy fits without microbatches, or compute alone
    bounds its step, policies that recompute more are skipped on that mesh: they compute more. If a
    setting needs n times the memory, the next one tried has at least n / ``SLACK`` times the
    microbatches.
    """
    trials: list[Trial] = []
    compiled = 0
    for policies in variants(options, len(target.devices)):
        for choices in policies:
            settled, least = False, 1.0
            for choice in choices:
                if choice.microbatches < least:
                    continue
                if compiled == max_trials:
                    say(f"stopped after {max_trials} compilations; see compile.max_trials")
                    return trials
                result = attempt(choice, target)
                trials.append((choice, result))
                say(describe(choice, result))
                if isinstance(result, str) or result.state_alone:
                    settled = True
                    break
                compiled += 1
                if result.fits:
                    settled = choice.microbatches == 1 or _is_bound_by_compute(result)
                    break
                least = _least_microbatches(result)
            if settled:
                break
    return trials


def attempt(options: TrainOptions, target: Target) -> StepReport | str:
    """Return the report, or one line with the reason why these options are refused.

    Raises:
        UnreadableProgram: the text of the compiled program cannot be read, whatever the options.
    """
    try:
        return analyze(options, target)
    except UnreadableProgram:
        raise
    except UserError as error:
        return str(error)


def best(trials: list[Trial]) -> Compiled | None:
    """Return the trial that fits with the smallest bound on the step time.

    If several bounds are equal, return the trial with the smallest sum of compute, memory and wire
    times.
    """
    fitting = [trial for trial in _reports(trials) if trial[1].fits]
    return min(fitting, key=lambda trial: _slowness(trial[1]), default=None)


def _is_bound_by_compute(report: StepReport) -> bool:
    return report.step_seconds is not None and report.step_seconds == report.compute_seconds


def _slowness(report: StepReport) -> tuple[float, float]:
    bounds = (report.compute_seconds, report.memory_seconds, report.wire_seconds)
    return report.step_seconds or report.executed_flops, sum(bound or 0.0 for bound in bounds)


def what_would_fit(options: TrainOptions, target: Target, *, say: Say = print) -> str:
    """Return a setting with which the step fits, found by trying.

    If none fits, return the smallest number of devices that can hold the state.
    """
    tried = 0
    devices = len(target.devices)
    own = resolved(options.mesh, devices)
    whole = resolved(dataclasses.replace(own, data=1, fsdp=-1), devices)
    for mesh in dict.fromkeys((own, whole)):
        least = 1.0
        for choice in _microbatched(options, mesh, "full"):
            same = choice == dataclasses.replace(options, mesh=own)
            if same or choice.microbatches < max(least, options.microbatches):
                continue
            result = attempt(choice, target)
            tried += 1
            say(describe(choice, result))
            if isinstance(result, StepReport) and result.fits:
                return f"it fits with {settings(choice)}"
            if isinstance(result, str) or result.state_alone:
                break  # more microbatches do not change this
            least = _least_microbatches(result)
    none = f"no cheaper setting fits either ({tried} tried)"
    return f"{none}: {more_devices(options, target)}, or a smaller model"


def _least_microbatches(result: StepReport) -> float:
    """Return the smallest number of microbatches worth trying after one that did not fit."""
    if not result.memory_limit or result.needed != result.needed:
        return 1.0
    return result.microbatches * result.needed / result.memory_limit / SLACK


def more_devices(options: TrainOptions, target: Target) -> str:
    """Return how many devices the state needs, if more than the target has; else "more devices"."""
    whole = dataclasses.replace(options, mesh=MeshOptions(data=1), microbatches=1)
    one_device = dataclasses.replace(target, devices=target.devices[:1])
    shapes = jax.tree.leaves(trainer_for(whole, one_device).shapes)
    state = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes)
    least = math.ceil(state / target.chip.memory) if target.chip.memory else 0
    if least <= len(target.devices):
        return "more devices"
    slices = slices_of(target.name, least)
    such = f", such as {slices[0]}" if slices else ""
    return f"at least {least} × {target.chip.name} for the state alone{such}"


def settings(options: TrainOptions) -> str:
    """Return the options that a search varies, as text."""
    mesh = options.mesh
    sequence = f" sequence={mesh.sequence}" if mesh.sequence > 1 else ""
    parts = [f"mesh data={mesh.data} fsdp={mesh.fsdp}{sequence} tensor={mesh.tensor}"]
    if hasattr(options.model, "remat"):
        parts.append(f"remat={options.model.remat}")
    if mesh.rings is not Rings.AUTO:
        parts.append(f"rings={mesh.rings.value}")
    return ", ".join([*parts, f"microbatches={options.microbatches}"])


def duration(seconds: float) -> str:
    """Return seconds as text: 12.34 s, 56.78 ms, 9.012 µs."""
    unit, name = next(((u, n) for u, n in ((1, "s"), (1e-3, "ms")) if seconds >= u), (1e-6, "µs"))
    return f"{seconds / unit:.4g} {name}" if seconds < 1000 else f"{seconds:.0f} s"


def describe(options: TrainOptions, result: StepReport | str) -> str:
    """Return one line about a trial."""
    if isinstance(result, str):
        return f"  {settings(options)}: {result}"
    memory = f"{result.needed / 2**30:.2f} GiB" if result.needed == result.needed else "too much"
    if result.state_alone:
        return f"  {settings(options)}: {memory} of parameters and moments alone, does not fit"
    verdict = "fits" if result.fits else "does not fit"
    pace = ""
    if result.fits and result.step_seconds:
        mfu = 100 * (result.mfu_causal_bound or 0)
        pace = f", step ≥ {duration(result.step_seconds)}, MFU ≤ {mfu:.1f}%"
    return (
        f"  {settings(options)}: {memory}, {verdict}{pace} (compiled in "
        f"{result.compile_seconds:.0f} s)"
    )
