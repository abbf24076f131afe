"""Implementation of ``python -m lossline.compile``: compile, report, search, write."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.cli.configuration import binding
from lossline.compilation.analysis import StepReport, analyze
from lossline.compilation.search import (
    best,
    duration,
    more_devices,
    search,
    settings,
    what_would_fit,
)
from lossline.compilation.targets import Target, find_target
from lossline.errors import UserError
from lossline.files import write_json
from lossline.places import in_bucket, to_path
from lossline.sharding.mesh import MESH_AXES
from lossline.training.options import TrainOptions

GIB = 2.0**30


@dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """Options of ``lossline.compile``.

    Attributes:
        train: training whose step is compiled; its token store is not read.
        topology: "v4:4x4x8" and the like, "h200:8", "cpu", "cpu:8", "gpu", or "here".
        search: whether to try meshes, remat policies, microbatches and rings, and print the best
            that fits.
        max_trials: largest number of compilations of a search.
        out: JSON file for the report.
    """

    train: TrainOptions
    topology: str = "here"
    search: bool = False
    max_trials: int = 24
    out: str | None = None

    def __post_init__(self) -> None:
        if self.max_trials < 1:
            raise UserError(f"compile.max_trials = {self.max_trials}: must be at least 1")


def compile_step(options: CompileOptions) -> StepReport:
    """Compile the step, print the report and return it.

    Raises:
        UserError: the topology is unknown, the options do not fit the devices, the step does not
            fit their memory, or ``out`` exists.
    """
    out = None if options.out is None else to_path(options.out, "compile.out")
    if out is not None:
        _refuse_unwritable(out)
    target = find_target(options.topology)
    train, report = _searched(options, target) if options.search else _single(options, target)
    print(render(train, report, target))
    if out is not None:
        _write(out, report)
        print(f"written to {out}")
    return report


def _refuse_unwritable(out: Path) -> None:
    """Check ``out`` now, before the minutes or hours of compilation."""
    if out.exists():
        raise UserError(f"{out} exists. Delete it or choose another --out.")
    if in_bucket(out):
        return
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError:
        raise UserError(f"{out}: folder {folder} is not writable. Choose another --out.") from None


def _single(options: CompileOptions, target: Target) -> tuple[TrainOptions, StepReport]:
    report = analyze(options.train, target)
    if report.fits:
        return options.train, report
    limit = report.memory_limit or 0.0
    excess = report.needed - limit
    who = "its parameters and moments alone need" if report.state_alone else "needs"
    by = (
        f"{who} {report.needed / GIB:.2f} GiB of {limit / GIB:.2f} GiB, {excess / GIB:.2f} too much"
    )
    if report.needed != report.needed:
        by = f"needs more than its {limit / GIB:.2f} GiB"
    print(f"does not fit one {report.chip} ({by}); searching for settings that fit:", flush=True)
    fix = what_would_fit(options.train, target, say=_say)
    raise UserError(f"the step does not fit one {report.chip} of {report.topology}: {by}; {fix}")


def _searched(options: CompileOptions, target: Target) -> tuple[TrainOptions, StepReport]:
    print(f"searching on {len(target.devices)} × {target.chip.name}:", flush=True)
    trials = search(options.train, target, max_trials=options.max_trials, say=_say)
    found = best(trials)
    if found is None:
        raise UserError(
            f"none of {len(trials)} settings fits {options.topology}. Use "
            f"{more_devices(options.train, target)}, or a smaller model or batch."
        )
    train, report = found
    print(f"best that fits: {settings(train)}; as bindings:", flush=True)
    print("\n".join(f"    {line}" for line in bindings(train)), flush=True)
    return train, report


def bindings(options: TrainOptions) -> list[str]:
    """Return the options that a search varies, as lines of a gin file."""
    mesh = options.mesh
    lines = ["train.mesh = @mesh()"]
    lines += [
        binding(f"mesh.{axis}", getattr(mesh, axis))
        for axis in MESH_AXES
        if axis != "sequence" or mesh.sequence > 1
    ]
    lines.append(binding("mesh.rings", mesh.rings.value))
    lines.append(binding("train.microbatches", options.microbatches))
    if hasattr(options.model, "remat"):
        lines.append(binding(f"{options.model.family}.remat", options.model.remat))
    return lines


def _say(text: str) -> None:
    print(text, flush=True)


def render(train: TrainOptions, report: StepReport, target: Target) -> str:
    """Return the report as text."""
    counts = train.model.num_params()
    mesh = " × ".join(f"{axis}={size}" for axis, size in report.mesh.items())
    lines = [
        f"{train.model.family}, {_large(counts.total)} parameters "
        f"({_large(counts.non_embedding)} without embeddings), batch {report.batch_size} × "
        f"{report.context_length} tokens, microbatches {report.microbatches}, remat {report.remat}",
        f"{report.topology}: {report.devices} × {report.chip}, mesh {mesh}"
        f"{'' if report.rings is None else f', rings {report.rings}'}; compiled in "
        f"{report.compile_seconds:.0f} s",
        "",
        "per device",
        *_memory_lines(report),
        f"  FLOPs       {report.executed_flops:.3e} of matrix products per step "
        f"({report.executed_flops / report.causal_flops:.2f} × the model's causal ones)",
        f"  HBM         {report.memory_bytes / 1e9:.2f} GB moved per step",
        *[
            f"  {row.kind:<19} over {row.axes:<18} {row.count:>6.0f} per step, "
            f"{row.wire_bytes / 1e9:.4f} GB sent"
            for row in report.collectives
        ],
    ]
    if report.unknown_loops:
        lines.append(
            f"  {report.unknown_loops} loops of unknown length are counted as one iteration"
        )
    return "\n".join([*lines, "", *_pace_lines(report)])


def _large(count: float) -> str:
    """Format a count as 1.30B or 417M."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:,.0f}"


def _memory_lines(report: StepReport) -> list[str]:
    memory = report.memory
    assert memory is not None
    limit = report.memory_limit
    share = "" if limit is None else f" of {limit / GIB:.2f} ({100 * memory.peak / limit:.0f}%)"
    return [
        f"  memory      {memory.peak / GIB:.2f} GiB at peak{share}: arguments "
        f"{memory.arguments / GIB:.2f}, temporaries {memory.temporaries / GIB:.2f}, code "
        f"{memory.code / GIB:.2f}",
    ]


def _pace_lines(report: StepReport) -> list[str]:
    bound = report.mfu_causal_bound
    if report.step_seconds is None or bound is None or not report.tokens_per_second:
        return [f"no roofline: peak rates of {report.chip!r} are unknown"]
    bounds = {
        "compute": report.compute_seconds,
        "HBM": report.memory_seconds,
        "wires": report.wire_seconds,
    }
    shown = ", ".join(
        f"{name} {duration(value)}" for name, value in bounds.items() if value is not None
    )
    days = report.total_steps * report.step_seconds / 86_400
    tokens = report.total_steps * report.tokens_per_step
    return [
        "roofline (a bound: perfect overlap, peak rates)",
        f"  step        ≥ {duration(report.step_seconds)} ({shown})",
        f"  MFU         ≤ {100 * bound:.1f}% (mfu_causal; mfu, with attention's whole square as "
        f"PaLM counts it, is {report.model_flops / report.causal_flops:.3f} times that)",
        f"  tokens/s    ≤ {report.tokens_per_second:,.0f}, "
        f"{report.tokens_per_second / report.devices:,.0f} per device",
        f"  whole run   {_large(tokens)} tokens in {report.total_steps:,} steps: ≥ {days:.2f} d, "
        f"{days * 24 * report.devices:,.0f} chip-hours",
    ]


def to_json(report: StepReport) -> dict[str, Any]:
    """Return all fields and bounds as a JSON-able tree; a value that is not finite is null."""
    tree = dataclasses.asdict(report)
    tree["collectives"] = [dataclasses.asdict(row) for row in report.collectives]
    for name in ("step_seconds", "mfu_causal_bound", "tokens_per_second", "tokens_per_step"):
        tree[name] = getattr(report, name)
    if report.memory is not None:
        tree["memory"]["peak"] = report.memory.peak
    return tree


def _write(path: Path, report: StepReport) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, to_json(report))
