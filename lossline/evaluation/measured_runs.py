"""Runs to measure: find them, and describe them and their checkpoints in columns of tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossline.evaluation.options import MeasureOptions, require_equal_options
from lossline.options.columns import option_columns
from lossline.options.identity import tree_hash
from lossline.options.roles import RINGS
from lossline.places import to_path
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.sharding import ProcessGroup
from lossline.tables.schema import FACTS, of_run
from lossline.training.text import component_tokens


def find_runs(paths: Sequence[str]) -> list[RunDirectory]:
    """Return the run directories among ``paths``, and those directly inside the other folders.

    Raises:
        UserError: a path is missing, or is neither a run directory nor a folder of run directories.
    """
    found: dict[Path, RunDirectory] = {}
    for name in paths:
        path = to_path(name)
        inside = sorted(path.glob("*/config.json")) if path.is_dir() else []
        if (path / "config.json").is_file() or not inside:
            candidates = [path]  # RunDirectory.open says what is wrong with it
        else:
            candidates = [config.parent for config in inside]
        for candidate in candidates:
            found.setdefault(candidate.resolve(), RunDirectory.open(candidate))
    return list(found.values())


def runs_of_all(group: ProcessGroup, options: MeasureOptions) -> list[RunDirectory]:
    """Return the run directories of the options, after a check that all processes see the same.

    Args:
        group: the processes.
        options: options of this process.

    Raises:
        UserError: as ``find_runs``, or a process has other options or other runs.
    """
    require_equal_options(group, options)
    with group.agreed():
        runs = find_runs(options.runs)
        found = {
            f"run directory {run.path}": tree_hash([run.config, run.facts])[:12] for run in runs
        }
    group.require_equal({"the list of runs": list(found)}, fix="Give all hosts the same folders.")
    group.require_equal(found, fix="Give all hosts the same run directories.")
    return runs


def has_ended(run: RunDirectory) -> bool:
    """Return whether no more checkpoints will come.

    The run records that it has ended, or it records "running" but no process is alive (killed).
    """
    return run.status.state is not RunState.RUNNING or not run.is_locked()


def run_columns(run: RunDirectory) -> dict[str, Any]:
    """Return the run's columns of the loss table: its facts, and every option of its identity."""
    facts = run.facts
    named = {name: facts.get(name) for name in (*FACTS, *of_run(facts))}
    rings = {RINGS: facts["rings"]} if facts.get("rings") is not None else {}
    return named | option_columns(run.config) | rings


def checkpoint_columns(run: RunDirectory, step: int) -> dict[str, Any]:
    """Return the columns known before measuring: of the run, and of the checkpoint."""
    facts = run.facts
    tokens = step * facts["tokens_per_step"]
    selects = facts.get("token_selection", "all") != "all"
    trained = run.trained_tokens(step) if selects else None
    selection = facts.get("selection_flops_once", 0.0)  # None: the reference's cost is unknown
    if selection is not None:
        selection += tokens * facts.get("selection_flops_per_token", 0.0)
    return run_columns(run) | {
        "step": step,
        "tokens": tokens,
        "flops": tokens * facts["flops_per_token"],
        "trained_tokens": tokens if trained is None else trained,
        "selection_flops": selection,
        **component_tokens(facts, step),
    }


def shape_key(run: RunDirectory) -> str:
    """Return a key that is equal for runs that share a compilation."""
    return json.dumps([run.config["model"], run.facts["vocabulary_hash"]], sort_keys=True)
