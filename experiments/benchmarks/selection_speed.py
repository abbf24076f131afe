"""Measure the speed of perplexity correlations against the package `perplexity-correlations`.

    pip install --no-deps --target PEER perplexity-correlations==0.1.2
    PYTHONPATH=PEER python experiments/benchmarks/selection_speed.py

One thread, losses of 90 models without ties, one benchmark. Rounds of both are interleaved, and the
best of each is kept; `--rounds` sets their number. Losses with ties and missing cells, and eight
benchmarks at once, are timed for lossline alone. The bootstrap (1,000 resamples of 9,841 domains ×
8 benchmarks, with intervals, weights and test) runs in a process of its own, so that its peak
memory is known. Without the package, only lossline is timed. The script prints tables and writes
selection_speed.json next to this file. `--small` runs the same code in seconds.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

# One thread for both.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fit_speed import environment

from lossline.selection import ScoreMatrix, correlate, estimate

try:
    from perplexity_correlations import estimation
except ImportError:  # see the module's docstring
    estimation = None

Array = np.ndarray

MODELS = 90
NAMES = ("product", "sign", "sign_cdf", "spearmanr", "sign_sign")
TARGETS = {"sign": 200, "sign_cdf": 5, "spearmanr": 2, "sign_sign": 4}  # at the most domains


def planted(domains: int, benchmarks: int) -> tuple[Array, Array]:
    """Return losses (90, D) above 0 and errors (90, B) between 0 and 1, without ties."""
    rng = np.random.default_rng(0)
    return rng.random((MODELS, domains)) + 0.5, rng.random((MODELS, benchmarks))


def best_of(jobs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the best seconds of each job; rounds are interleaved, the first is not counted."""
    best = dict.fromkeys(jobs, float("inf"))
    for number in range(rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            if number:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def estimators(domains: int, rounds: int) -> list[dict[str, object]]:
    """Return one row per estimator: seconds of both, and their largest difference."""
    losses, errors = planted(domains, 1)
    eight = planted(1, 8)[1]
    rounded = losses.round(2)
    gaps = np.where(np.random.default_rng(1).random(losses.shape) < 0.001, np.nan, losses)
    rows = []
    for name in NAMES:
        jobs = {
            "ours": lambda name=name: estimate(losses, errors, name),
            "eight_benchmarks": lambda name=name: estimate(losses, eight, name),
            "ties": lambda name=name: estimate(rounded, errors, name),
            "missing_cells": lambda name=name: estimate(gaps, errors, name),
        }
        if estimation is not None:
            package = getattr(estimation, name)
            jobs["package"] = lambda package=package: package(losses, errors[:, 0])
        seconds = best_of(jobs, rounds)
        row: dict[str, object] = {"domains": domains, "estimator": name, **seconds}
        if estimation is not None:
            expected = getattr(estimation, name)(losses, errors[:, 0])
            row["times"] = seconds["package"] / seconds["ours"]
            row["largest_difference"] = float(np.abs(jobs["ours"]()[:, 0] - expected).max())
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict[str, object]) -> str:
    """Return a row as a line of the table."""
    others = "".join(f"{row[name]:10.4f}" for name in ("eight_benchmarks", "ties", "missing_cells"))
    peer = f"{row['package']:10.4f}{row['times']:8.1f}x" if "package" in row else " " * 19
    return f"{row['domains']:9,} {row['estimator']:10}{row['ours']:10.4f}{peer}{others}"


def bootstrap(domains: int, benchmarks: int, resamples: int, estimator: str) -> dict[str, object]:
    """Return seconds and peak memory of one bootstrap in this process."""
    losses, errors = planted(domains, benchmarks)
    names = tuple(map(str, range(max(MODELS, domains, benchmarks))))
    matrix = ScoreMatrix(
        models=names[:MODELS], families=names[:MODELS], domains=names[:domains],
        benchmarks=names[:benchmarks], losses=losses, errors=errors,
    )  # fmt: skip
    started = time.perf_counter()
    correlate(matrix, estimator=estimator, resamples=resamples)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB on Linux
    return {"estimator": estimator, "domains": domains, "benchmarks": benchmarks,
            "resamples": resamples, "seconds": seconds, "peak_gib": peak}  # fmt: skip


def main() -> None:
    """Measure all jobs, print the tables and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="few domains and resamples")
    parser.add_argument("--bootstrap", metavar="ESTIMATOR", help="run one bootstrap only")
    options = parser.parse_args()
    size = (500, 2, 40) if options.small else (9841, 8, 1000)
    if options.bootstrap:
        print(json.dumps(bootstrap(*size, options.bootstrap)))
        return
    warnings.simplefilter("ignore")  # the package warns of losses outside of its range
    record: dict[str, object] = {"environment": environment(), "targets": TARGETS}
    if estimation is not None:
        record["package"] = importlib.metadata.version("perplexity-correlations")
    print("  domains estimator     ours s  package s     ×   8 bench.      ties   missing")
    many = (500, 2000) if options.small else (9841, 100_000)
    record["estimators"] = [row for count in many for row in estimators(count, options.rounds)]
    record["bootstraps"] = []
    for name in ("spearmanr", "sign_sign"):
        command = [sys.executable, __file__, "--bootstrap", name]
        command += ["--small"] if options.small else []
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        record["bootstraps"].append(found)
        print(f"bootstrap, {name}: {found['seconds']:.1f} s, {found['peak_gib']:.2f} GiB at peak")
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
