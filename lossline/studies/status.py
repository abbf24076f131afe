"""State of every run of a study, from the run directories and the logs alone."""

from __future__ import annotations

import enum
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.studies.job_output import JobOutput, written_after
from lossline.studies.packed_trainings import ENDED
from lossline.studies.planned_run import PlannedRun
from lossline.studies.progress import last_lines, last_row
from lossline.studies.record import Submission
from lossline.terminal import duration

_REFUSAL = "lossline train: error: "
_LONGEST_REASON = 160  # characters


class State(enum.Enum):
    """State of a run of a study, in the order of the summary."""

    FINISHED = "finished"
    RUNNING = "running"
    STOPPED = "stopped"  # preempted, killed or queued again: no process trains it
    FAILED = "failed"
    SUBMITTED = "submitted"  # not started yet
    WAITING = "waiting"


@dataclass(frozen=True, kw_only=True)
class RunView:
    """What is known of one run.

    Attributes:
        name: name of the grid point.
        folder: run directory.
        state: its state.
        step: last step with a row in the metrics.
        steps: steps of the whole run; None before the first row.
        tokens: tokens trained.
        total: tokens of the whole run.
        rate: tokens per second, over about the last second of training.
        loss: of the last row.
        note: why it failed or stopped; the job of a submitted run.
    """

    name: str
    folder: str
    state: State
    step: int
    steps: int | None
    tokens: int
    total: int
    rate: float | None
    loss: float | None
    note: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Time left of a running training at its rate."""
        if self.state is not State.RUNNING or not self.rate:
            return None
        return (self.total - self.tokens) / self.rate


def view(
    run: PlannedRun, *, logs: Path, last: Submission | None = None, jobs: Path | None = None
) -> RunView:
    """Look at one run.

    Args:
        run: the planned run.
        logs: folder of the study's ``<name>.log`` files.
        last: its newest job.
        jobs: folder of the output of jobs; None: they are not looked at.
    """
    row = {} if run.missing else last_row(run.folder)
    step, tokens = int(row.get("step", 0)), int(row.get("tokens", 0))
    state, note = _state(run, logs / f"{run.name}.log", last, jobs)
    return RunView(
        name=run.name,
        folder=str(run.folder),
        state=state,
        step=step,
        steps=round(run.tokens * step / tokens) if tokens else None,
        tokens=run.tokens if state is State.FINISHED else tokens,
        total=run.tokens,
        rate=row.get("tokens_per_second"),
        loss=row.get("loss"),
        note=note,
    )


def _state(
    run: PlannedRun, log: Path, last: Submission | None, jobs: Path | None
) -> tuple[State, str]:
    """Return state and note of a run."""
    if run.missing:
        return State.WAITING, run.missing.partition(". ")[0]
    folder = RunDirectory(run.folder)
    try:
        recorded = folder.status
    except UserError as damage:
        return State.FAILED, str(damage).removeprefix(f"{run.folder}/")
    if recorded.state is RunState.FINISHED:
        return State.FINISHED, ""
    if folder.is_locked():
        return State.RUNNING, f"job {last.job}" if last else ""
    # Looked at before the log, which the job may begin just now.
    output = JobOutput.of(last, jobs) if last and jobs else JobOutput()
    if last and not written_after(log, last.time):
        return _before_training(run, last, output, recorded.step)
    if recorded.state is RunState.FAILED:
        return State.FAILED, recorded.message.removeprefix(f"{run.folder}: ")
    failed, reason = _end_of(log)
    if failed:
        return State.FAILED, reason
    if not (run.folder / "config.json").exists():
        return (State.STOPPED, reason) if reason else (State.WAITING, "")
    where = f"continues from step {recorded.step}" if recorded.step else "starts again"
    job = f"job {last.job}" if last else ""
    return State.STOPPED, "; ".join(part for part in (job, reason, where) if part)


def _before_training(
    run: PlannedRun, job: Submission, output: JobOutput, step: int
) -> tuple[State, str]:
    """Return state and note of a run whose job has not started its training."""
    said = f": {output.said}" if output.said else ""
    if output.ended:
        return State.FAILED, f"job {job.job} ended before its training{said}"
    parts = [f"job {job.job}"]
    if output.started:
        parts.append(f"its training has not started{said}")
    elif (run.folder / "config.json").exists():
        parts.append(f"continues from step {step}")
    return State.SUBMITTED, ", ".join(parts)


def _end_of(log: Path) -> tuple[bool, str]:
    """Return whether a log ends with an error of the training, and what it says."""
    lines = last_lines(log)
    ended = lines.pop() if lines and lines[-1].startswith(ENDED) else ""
    said = lines[-1] if lines else ""
    if said.startswith(_REFUSAL):
        return True, said.removeprefix(_REFUSAL)
    how = ended.removeprefix(ENDED)
    if how.startswith("status") and "interrupted" not in said:
        return True, f"{how}: {said}"
    return False, how if how.startswith("signal") else ""


def status_text(views: Sequence[RunView]) -> str:
    """Return the table of the runs and a summary of one line."""
    width = max(len(item.name) for item in views)
    head = f"{'run':{width}s}  {'state':9s} {'step':>15s} {'tokens/s':>10s} {'loss':>8s}"
    head += f" {'left':>10s}  note"
    return "\n".join([head, *(_line(item, width) for item in views), summary(views)])


def status_lines(views: Sequence[RunView]) -> str:
    """Return one JSON object per run, each on a line; what is not known is null."""
    return "\n".join(json.dumps(_tree(item), ensure_ascii=False) for item in views)


def _tree(item: RunView) -> dict[str, Any]:
    numbers = {
        "tokens_per_second": item.rate if item.state is State.RUNNING else None,
        "loss": item.loss,
        "seconds_left": item.seconds_left,
    }
    return {
        "run": item.name,
        "folder": item.folder,
        "state": item.state.value,
        "step": item.step,
        "steps": item.steps,
        "tokens": item.tokens,
        "total_tokens": item.total,
        # JSON has no NaN and no infinity.
        **{k: v if v is not None and math.isfinite(v) else None for k, v in numbers.items()},
        "note": item.note,
    }


def _line(item: RunView, width: int) -> str:
    step = "" if item.steps is None else f"{item.step}/{item.steps}"
    running = item.state is State.RUNNING
    rate = f"{item.rate:,.0f}" if running and item.rate else ""
    loss = "" if item.loss is None else f"{item.loss:.4f}"
    left = "" if item.seconds_left is None else duration(item.seconds_left)
    note = item.note[: _LONGEST_REASON - 1] + "…" if len(item.note) > _LONGEST_REASON else item.note
    text = f"{item.name:{width}s}  {item.state.value:9s} {step:>15s} {rate:>10s} {loss:>8s}"
    return f"{text} {left:>10s}  {note}".rstrip()


def summary(views: Sequence[RunView]) -> str:
    """Return counts, tokens, the rate of all running trainings, and the time left at that rate."""
    counts = Counter(item.state for item in views)
    states = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    total, tokens = sum(item.total for item in views), sum(item.tokens for item in views)
    text = f"{len(views)} runs: {states}; {tokens / total:.0%} of {total / 1e6:,.1f}M tokens"
    rate = sum(item.rate or 0 for item in views if item.state is State.RUNNING)
    if rate:
        text += (
            f", {rate / 1e3:,.1f}k tokens/s, {duration((total - tokens) / rate)} left at this rate"
        )
    return text


def views_of(
    runs: Sequence[PlannedRun],
    *,
    logs: Path,
    submissions: Mapping[str, Submission],
    jobs: Path | None = None,
) -> list[RunView]:
    """Look at every run of a study; see ``view``."""
    return [view(run, logs=logs, last=submissions.get(run.name), jobs=jobs) for run in runs]
