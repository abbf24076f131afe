"""A run that a study wants: its command line, its folder, and how far it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossline.cli.configuration import build_options
from lossline.errors import UserError
from lossline.options.identity import fingerprint
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.stores.manifests import NoStore
from lossline.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of a study.

    Attributes:
        name: the grid point's name.
        arguments: command line of ``lossline.train``.
        folder: its run directory; without the hash (``name-?``) while its store does not exist.
        fingerprint: hash of its identity; empty while its store does not exist.
        factors: what the grid's axes vary -> this run's level.
        missing: why there is no fingerprint, empty otherwise.
        tokens: target tokens of the whole run.
        flops: training FLOPs of the whole run.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    fingerprint: str
    tokens: int
    flops: float
    factors: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""

    def finished(self) -> bool:
        """Whether the run has reached its last step."""
        if self.missing or not (self.folder / "status.json").exists():
            return False
        return RunDirectory.open(self.folder).status.state is RunState.FINISHED

    def measured(self) -> bool:
        """Whether the evaluator has written the run's losses."""
        return (self.folder / "losses.parquet").exists()


def plan_run(
    name: str,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    factors: Mapping[str, str] | None = None,
) -> PlannedRun:
    """Resolves a run's options, so that a mistake in any run shows before the first one starts.

    Args:
        name: the grid point's name.
        gin_files: files of ``lossline.train``, in order.
        bindings: binding lines, after the files.
        factors: what the grid's axes vary -> this run's level.

    Raises:
        UserError: as ``lossline.train`` would, with the run's name in front. A store that does not
            exist yet is no error here: see ``PlannedRun.missing``.
    """
    from lossline.train import load

    try:
        options = build_options("train", load(), gin_files=gin_files, bindings=bindings)
    except UserError as error:
        raise UserError(f"run {name}: {error}") from error
    folder, key, missing = _identified(options)
    arguments = [f"--gin_file={path}" for path in gin_files]
    arguments += [f"--gin.{key}={value}" for key, value in map(_split, bindings)]
    return PlannedRun(
        name=name,
        arguments=tuple(arguments),
        folder=folder,
        fingerprint=key,
        factors=dict(factors or {}),
        missing=missing,
        tokens=options.total_tokens,
        flops=options.total_tokens * options.flops_per_token,
    )


def _identified(options: TrainOptions) -> tuple[Path, str, str]:
    """Run directory, fingerprint, and why there is none."""
    try:
        return options.folder, fingerprint(options), ""
    except NoStore as error:
        unnamed = options.directory or Path(options.root) / f"{options.name}-?"
        return Path(unnamed), "", str(error)


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.partition(" = ")
    return key, value
