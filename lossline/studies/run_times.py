"""How long the runs of a study take, as far as its earlier runs have told.

Models of equal FLOPs per token count as one size. Per FLOP, Mamba takes longer than Llama.
"""

from __future__ import annotations

from collections.abc import Sequence

from lossline.studies.planned_run import PlannedRun
from lossline.studies.progress import last_row


def estimated_seconds(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Return the training time of each run, by name; correct up to one factor for all."""
    sizes = _by_size(runs)
    seconds = _seconds_per_token(sizes)
    return {
        item.name: item.tokens * seconds[size] for size, items in sizes.items() for item in items
    }


def next_run(runs: Sequence[PlannedRun], waiting: Sequence[str]) -> str:
    """Return the name of the waiting run to train next.

    Each size trains once before any trains again, so that the time left is soon known. After that,
    the longest run is first, so that at the end no long run occupies one core alone.
    """
    sizes = {item.name: item.flops_per_token for item in runs}
    begun = {size for name, size in sizes.items() if name not in waiting}
    seconds = estimated_seconds(runs)
    new = [name for name in waiting if sizes[name] not in begun]
    return max(new or waiting, key=seconds.__getitem__)


def equal_shares(runs: Sequence[PlannedRun], count: int) -> list[list[PlannedRun]]:
    """Split the runs into at most ``count`` parts of about equal time per token.

    Models of one size stay together as far as possible: an evaluator compiles each size once, so a
    size in two parts is compiled twice.
    """
    sizes = _by_size(runs)
    seconds = _seconds_per_token(sizes)
    total = sum(seconds[size] * len(items) for size, items in sizes.items())
    shares: list[list[PlannedRun]] = [[] for _ in range(count)]
    done = 0.0
    for size in sorted(sizes, key=lambda size: seconds[size], reverse=True):
        for item in sizes[size]:
            middle = (done + seconds[size] / 2) / total
            shares[min(int(middle * count), count - 1)].append(item)
            done += seconds[size]
    return [share for share in shares if share]


def _by_size(runs: Sequence[PlannedRun]) -> dict[float, list[PlannedRun]]:
    """Group the runs by training FLOPs per token."""
    sizes: dict[float, list[PlannedRun]] = {}
    for item in runs:
        sizes.setdefault(item.flops_per_token, []).append(item)
    return sizes


def _seconds_per_token(sizes: dict[float, list[PlannedRun]]) -> dict[float, float]:
    """Return the mean time per token of each size, from the rates that its trainings logged.

    A size that has not trained yet takes, per FLOP, as long as the slowest that has; before any has
    trained, the result is FLOPs.
    """
    known = {}
    for size, items in sizes.items():
        rates = [last_row(item.folder).get("tokens_per_second") for item in items]
        seconds = [1 / rate for rate in rates if rate]
        if seconds:
            known[size] = sum(seconds) / len(seconds)
    slowest = max((seconds / size for size, seconds in known.items()), default=1.0)
    return {size: known.get(size, slowest * size) for size in sizes}
