"""Run the steps of several jobs side by side on one engine; finished units are kept on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lossline.checksums import file_sizes
from lossline.cluster import Engine
from lossline.files import write_json
from lossline.terminal import Say, silent

Facts = dict[str, Any]  # of a finished unit: small, and JSON
Outcome = TypeVar("Outcome")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One piece of work, small enough to send.

    Attributes:
        function: a module's function of ``options``, or one from ``functools.partial``; returns the
            facts of what it wrote.
        options: what it works on.
        outputs: files that it writes, and folders of which it writes all files.
        mark: file of the facts and of the sizes of the outputs, written last. A unit is finished if
            its outputs have these sizes: a machine that goes down may leave empty files behind.
    """

    function: Callable[[Any], Facts]
    options: Any
    outputs: tuple[str, ...]
    mark: str


# A job yields the units of a step, receives their facts in the same order, and returns its result.
Job = Generator[list[Unit], list[Facts], Outcome]


def run_side_by_side(
    jobs: Sequence[Job[Outcome]],
    engine: Engine,
    *,
    say: Say = silent,
    finished: Callable[[int, Outcome], None] = lambda number, outcome: None,
) -> None:
    """Run jobs step by step: the units of one step of all jobs together, then those of the next.

    Args:
        jobs: the jobs.
        engine: what runs the units.
        say: receives a line of progress now and then.
        finished: called with the number and the result of each job as soon as it ends.
    """
    waiting: dict[int, list[Facts] | None] = dict.fromkeys(range(len(jobs)))
    step = 0
    while waiting:
        steps: dict[int, list[Unit]] = {}
        for number, facts in waiting.items():
            try:
                steps[number] = (
                    jobs[number].send(facts) if facts is not None else next(jobs[number])
                )
            except StopIteration as end:
                finished(number, end.value)
        owners = [(number, place) for number, units in steps.items() for place in range(len(units))]
        units = [unit for some in steps.values() for unit in some]
        step += 1
        found: dict[tuple[int, int], Facts] = {}
        if units:
            for index, result in engine.run(_once, units, say=say, what=f"units of step {step}"):
                found[owners[index]] = result
        waiting = {n: [found[n, place] for place in range(len(some))] for n, some in steps.items()}


def _once(unit: Unit) -> Facts:
    """Return the facts of a unit; do its work if it is not finished."""
    mark = Path(unit.mark)
    found = _finished(mark, unit.outputs)
    if found is not None:
        return found
    facts = unit.function(unit.options)
    mark.parent.mkdir(parents=True, exist_ok=True)
    write_json(mark, {"facts": facts, "bytes": _sizes(unit.outputs)})
    return facts


def _finished(mark: Path, outputs: Sequence[str]) -> Facts | None:
    """Return the facts in a mark; None if it or an output is missing or damaged."""
    try:
        tree = json.loads(mark.read_text(encoding="utf-8"))
        facts: Facts = tree["facts"]
        return facts if tree["bytes"] == _sizes(outputs) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _sizes(outputs: Sequence[str]) -> list[dict[str, int]]:
    """Return the bytes of the files of each output by name; none for a missing output."""
    return [_sizes_of(Path(output)) for output in outputs]


def _sizes_of(output: Path) -> dict[str, int]:
    if output.is_file():
        return {"": output.stat().st_size}
    # Hidden files are unfinished ones of a killed worker.
    return {name: size for name, size in file_sizes(output).items() if not name.startswith(".")}
