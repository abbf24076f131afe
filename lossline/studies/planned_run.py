"""A run that a study wants: its command line, its folder, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lossline.configuration import build_options
from lossline.errors import UserError
from lossline.options.identity import fingerprint
from lossline.training.run_directory import RunDirectory, RunState


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of a study.

    Attributes:
        name: the grid point's name.
        arguments: command line of ``lossline.train``.
        folder: its run directory.
        fingerprint: hash of its resolved options.
        tokens: target tokens of the whole run.
        flops: training FLOPs of the whole run.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    fingerprint: str
    tokens: int
    flops: float

    def finished(self) -> bool:
        """Whether the run has reached its last step."""
        if not (self.folder / "status.json").exists():
            return False
        return RunDirectory.open(self.folder).status.state is RunState.FINISHED

    def measured(self) -> bool:
        """Whether the evaluator has written the run's losses."""
        return (self.folder / "losses.parquet").exists()


def plan_run(name: str, gin_files: Sequence[str], bindings: Sequence[str]) -> PlannedRun:
    """Resolves a run's options, so that a mistake in any run shows before the first one starts.

    Args:
        name: the grid point's name.
        gin_files: files of ``lossline.train``, in order.
        bindings: binding lines, after the files.

    Raises:
        UserError: as ``lossline.train`` would, with the run's name in front.
    """
    from lossline.train import load

    try:
        options = build_options("train", load(), gin_files=gin_files, bindings=bindings)
    except UserError as error:
        raise UserError(f"run {name}: {error}") from error
    arguments = [f"--gin_file={path}" for path in gin_files]
    arguments += [f"--gin.{key}={value}" for key, value in map(_split, bindings)]
    return PlannedRun(
        name=name,
        arguments=tuple(arguments),
        folder=options.folder,
        fingerprint=fingerprint(options),
        tokens=options.total_tokens,
        flops=options.total_tokens * options.flops_per_token,
    )


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.partition(" = ")
    return key, value
