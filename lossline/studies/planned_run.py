"""Planned run of a study: its command line, its run directory and its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lossline.cli.configuration import build_options
from lossline.errors import NotMadeYet, UserError
from lossline.gin_files.parsed_files import ParsedFiles, search_paths
from lossline.options.identity import fingerprint
from lossline.places import to_path
from lossline.runs.origin import with_known_start
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.training.options import TrainOptions


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training of a study.

    Attributes:
        name: name of the grid point.
        arguments: command line of ``lossline.train``.
        folder: run directory. Its name ends in ``-?`` instead of the hash while a store or the
            origin does not exist.
        fingerprint: hash of the run's identity; empty while one of these does not exist.
        tokens: target tokens of the whole run.
        flops_per_token: training FLOPs per token; runs in which they are equal count as one size.
        factors: factor of each axis -> level of this run.
        missing: reason why there is no fingerprint; empty if there is one.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    fingerprint: str
    tokens: int
    flops_per_token: float
    factors: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""

    @property
    def flops(self) -> float:
        """Training FLOPs of the whole run."""
        return self.tokens * self.flops_per_token

    def finished(self) -> bool:
        """Return whether the run has reached its last step."""
        if self.missing or not (self.folder / "status.json").exists():
            return False
        return RunDirectory.open(self.folder).status.state is RunState.FINISHED

    def measured(self) -> bool:
        """Return whether the evaluator has written the run's losses."""
        return (self.folder / "losses.parquet").exists()


def plan_run(
    name: str,
    gin_files: Sequence[str],
    bindings: Sequence[str],
    factors: Mapping[str, str] | None = None,
    *,
    parsed: ParsedFiles | None = None,
) -> PlannedRun:
    """Resolve the options of a run, so that an error in any run appears before training.

    Args:
        name: name of the grid point.
        gin_files: Gin files of ``lossline.train``, in order.
        bindings: binding lines, applied after the files.
        factors: factor of each axis -> level of this run.
        parsed: gin files that earlier runs of the grid have parsed.

    Raises:
        UserError: the error that ``lossline.train`` would raise, after the run's name. A missing
            store or origin is not an error here, see ``PlannedRun.missing``.
    """
    try:
        options = run_options(gin_files, bindings, parsed)
        folder, key, missing = _identified(options)
    except UserError as error:
        raise UserError(f"run {name}: {error}") from error
    arguments = [f"--gin_file={path}" for path in gin_files]
    if search_paths:
        arguments.append(f"--gin_search_paths={','.join(search_paths)}")
    arguments += [f"--gin.{key}={value}" for key, value in map(_split, bindings)]
    return PlannedRun(
        name=name,
        arguments=tuple(arguments),
        folder=folder,
        fingerprint=key,
        factors=dict(factors or {}),
        missing=missing,
        tokens=options.total_tokens,
        flops_per_token=options.flops_per_token,
    )


def run_options(
    gin_files: Sequence[str], bindings: Sequence[str], parsed: ParsedFiles | None = None
) -> TrainOptions:
    """Return the resolved options of a run.

    Args:
        gin_files: Gin files of ``lossline.train``, in order.
        bindings: binding lines, applied after the files.
        parsed: gin files that earlier calls have parsed.

    Raises:
        UserError: a file or a binding is wrong.
    """
    from lossline.train import load

    options: TrainOptions = build_options(
        "train", load(), gin_files=gin_files, bindings=bindings, parsed=parsed
    )
    return options


def _identified(options: TrainOptions) -> tuple[Path, str, str]:
    """Return run directory, fingerprint, and the reason if there is no fingerprint."""
    try:
        known = with_known_start(options)
        return known.folder, fingerprint(known), ""
    except NotMadeYet as error:
        unnamed = options.directory or to_path(options.root) / f"{options.name}-?"
        return to_path(unnamed), "", str(error)


def _split(line: str) -> tuple[str, str]:
    key, _, value = line.partition(" = ")
    return key, value
