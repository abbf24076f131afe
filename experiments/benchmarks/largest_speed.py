"""Measure exact selection of the largest scores against sorts of the same sharded array.

    python experiments/benchmarks/largest_speed.py

1,048,576 float32 scores [1024, 1024] on eight virtual CPU devices, rows split over ``data``; 60% of
them are selected. Every job is compiled first. Each round times every job once, one after the
other, so that other work on the machine slows all of them; ratios are taken within a round. The
script checks the selection against NumPy, prints a table and writes largest_speed.json next to this
file. `--small` runs the same code in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fit_speed import environment

from lossline.ops.largest import select_largest
from lossline.sharding import MeshOptions, batch_sharding, make_mesh

SHARE = 0.6
TARGET = 20  # times faster than the fastest sort
Job = Callable[[], jax.Array]


def make_jobs(rows: int, length: int) -> dict[str, Job]:
    """Return the compiled jobs by name."""
    mesh = make_mesh(MeshOptions(data=-1))
    scores = np.random.default_rng(0).normal(size=(rows, length)).astype(np.float32)
    split = batch_sharding(mesh)
    x, ties, all_ = jax.device_put((scores, scores.round(1), np.ones(scores.shape, bool)), split)
    count = int(SHARE * scores.size)
    per_row = jnp.full(rows, int(SHARE * length), jnp.int32)
    whole = jax.jit(select_largest, out_shardings=split)
    of_rows = jax.jit(partial(select_largest, per_row=True), out_shardings=split)
    threshold = jax.jit(lambda x: jnp.sort(x.ravel())[-count])
    top = jax.jit(lambda x: jax.lax.top_k(x.ravel(), count)[0][-1])
    places = jax.jit(lambda x: jnp.argsort(-x.ravel(), stable=True)[:count])
    require_exact(whole(x, all_, jnp.int32(count)), scores, count)
    return {
        "select_largest": lambda: whole(x, all_, jnp.int32(count)),
        "select_largest, many equal": lambda: whole(ties, all_, jnp.int32(count)),
        "select_largest, each row": lambda: of_rows(x, all_, per_row),
        "jnp.sort": lambda: threshold(x),
        "lax.top_k": lambda: top(x),
        "jnp.argsort": lambda: places(x),
    }


def require_exact(found: jax.Array, scores: np.ndarray, count: int) -> None:
    """Raise an AssertionError unless the selection is the one of NumPy's stable sort."""
    expected = np.zeros(scores.size, bool)
    expected[np.argsort(-scores.ravel(), kind="stable")[:count]] = True
    np.testing.assert_array_equal(np.asarray(found).ravel(), expected)


def measure(jobs: dict[str, Job], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each job in each round; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            jax.block_until_ready(job())
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def table(seconds: dict[str, list[float]]) -> list[dict[str, object]]:
    """Return one row per job: seconds, and how many times as long as our selection."""
    ours = seconds["select_largest"]
    rows: list[dict[str, object]] = []
    for name, taken in seconds.items():
        times = sorted(job / our for job, our in zip(taken, ours, strict=True))
        rows.append(
            {
                "job": name,
                "best_seconds": min(taken),
                "median_seconds": statistics.median(taken),
                "times_ours": statistics.median(times),
                "times_ours_least": times[0],
                "times_ours_most": times[-1],
            }
        )
    return rows


def main() -> None:
    """Measure all jobs, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="few scores")
    options = parser.parse_args()
    rows, length = (64, 64) if options.small else (1024, 1024)
    found = table(measure(make_jobs(rows, length), options.rounds))
    print(f"{rows * length:,} scores, {jax.device_count()} devices")
    print(f"{'job':28}{'best ms':>10}{'median ms':>11}{'x ours':>8}  (least to most)")
    for row in found:
        print(
            f"{row['job']:28}{1e3 * row['best_seconds']:10.1f}{1e3 * row['median_seconds']:11.1f}"
            f"{row['times_ours']:8.1f}  ({row['times_ours_least']:.1f} to "
            f"{row['times_ours_most']:.1f})"
        )
    record = {
        "environment": environment() | {"jax": jax.__version__},
        "scores": rows * length,
        "devices": jax.device_count(),
        "share": SHARE,
        "target": TARGET,
        "rounds": options.rounds,
        "jobs": found,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
