"""Measure a planted study of 1,000 runs: its loss table loaded, fitted and reported.

    python experiments/benchmarks/simulated_scale.py

The table has 1,000 runs × 30 checkpoints × 40 sets, 1.2 million rows: four data sets, one x set and
39 y sets, losses on planted shifted power laws with noise. The script writes the table to a
temporary folder, loads it with `tables.load` in a process of its own, runs `python -m lossline.fit`
with its default options (bootstrap and report included), and prints wall time, CPU time and memory
of each, and the largest error of a line that can be drawn. Each runs twice: times are those of a
run that nothing watches; memory is that of a second run, looked at five times a second. Looking
slows it down; `watched_s` is its wall time. The script writes simulated_scale.json next to this
file. `--runs`, `--checkpoints` and `--sets` make it smaller; `--keep=FOLDER` keeps the table and
the results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from whole_fit_speed import measured

from lossline import tables
from lossline.fits.files import load_results
from lossline.tables.schema import COLUMN_NAMES

HERE = Path(__file__).resolve().parent
DATA = ("web", "wiki", "code", "books")
SIZES = np.geomspace(2e7, 2e9, 10)
TARGETS = 1_000_000  # scored tokens of each set
NOISE = 0.004  # relative, of each loss; runs differ by as much


def planted(
    runs: int, checkpoints: int, sets: int, units: int = 1, seed: int = 0
) -> tuple[pd.DataFrame, Any]:
    """Return the loss table, and the planted y at x = 3 of each pretraining set and y set.

    Args:
        runs: number of runs.
        checkpoints: checkpoints of each run.
        sets: evaluation sets, the x set included.
        units: 1: losses in nats per token alone; 2: also sums, from which bits per byte follow.
        seed: seed of constants and noise.
    """
    rng = np.random.default_rng(seed)
    run = np.arange(runs)
    data, size = run % len(DATA), (run // len(DATA)) % len(SIZES)
    params = SIZES[size]
    final = params * rng.choice([10.0, 20.0, 40.0], runs)
    steps = 1000 * np.arange(1, checkpoints + 1)
    tokens = final[:, None] * (np.arange(1, checkpoints + 1) / checkpoints)
    x = 1.7 + 400 * params[:, None] ** -0.34 + 410 * tokens**-0.28
    x = x + 0.05 * data[:, None]
    x *= np.exp(NOISE * rng.standard_normal((runs, 1)))
    shape = (len(DATA), sets - 1)
    K, kappa = rng.uniform(0.6, 1.3, shape), rng.uniform(0.85, 1.25, shape)
    E_x, E_y = 1.3, rng.uniform(0.4, 1.5, shape)
    losses = np.empty((runs, checkpoints, sets))
    losses[..., 0] = x * np.exp(NOISE / 4 * rng.standard_normal(x.shape))
    clean = K[data][:, None] * (x[..., None] - E_x) ** kappa[data][:, None] + E_y[data][:, None]
    losses[..., 1:] = clean * np.exp(NOISE * rng.standard_normal(clean.shape))
    names = ["x", *(f"y{number:02d}" for number in range(1, sets))]
    rows = runs * checkpoints * sets
    of_run = np.repeat(run, checkpoints * sets)
    of_checkpoint = np.tile(np.repeat(np.arange(checkpoints), sets), runs)
    of_set = np.tile(np.arange(sets), runs * checkpoints)
    D = tokens[of_run, of_checkpoint]
    sums = {
        "nats": losses.reshape(rows) * TARGETS,
        "target_tokens": TARGETS,
        "target_bytes": 4 * TARGETS,
        "documents": TARGETS // 1000,
    }
    table = pd.DataFrame(
        {
            "run_id": np.char.add("run-", np.char.zfill(of_run.astype(str), 5)),
            "architecture": "llama",
            "pretraining_data": np.array(DATA)[data][of_run],
            "tokenizer": "bpe",
            "context_length": 2048,
            "optimizer": "adamw",
            "schedule": "cosine",
            "learning_rate": 3e-4,
            "weight_decay": 0.1,
            "params": params[of_run],
            "params_non_embedding": 0.9 * params[of_run],
            "seed": of_run,
            "source": "planted",
            "step": steps[of_checkpoint],
            "tokens": D,
            "flops": 6 * params[of_run] * D,
            "eval_set": np.array(names)[of_set],
            "kind": np.where(of_set > sets // 2, "task", "validation"),
            **(sums if units == 2 else {}),
            "loss": losses.reshape(rows),
            "status": "ok",
        }
    )
    table = table.reindex(columns=[*COLUMN_NAMES])
    at_three = K * (3.0 - E_x) ** kappa + E_y
    truth = {
        (DATA[i], names[j + 1]): at_three[i, j] for i in range(len(DATA)) for j in range(sets - 1)
    }
    return table, truth


def worst(folder: Path, truth: dict[tuple[str, str], float]) -> tuple[float, int]:
    """Return the largest relative error of the lines at x = 3, and the number of lines drawn."""
    errors = [
        abs(float(line.predict(3.0)) / truth[line.group["pretraining_data"], line.y_set] - 1)
        for line in load_results(folder).lines
        if line.drawable and line.unit == "loss"
    ]
    return max(errors), len(errors)


def twice(command: list[str], out: Path) -> dict[str, float]:
    """Return the times of a command that nothing watches, and its memory in a second run.

    The folder ``out`` is deleted before each, since a fit that is up to date does nothing.
    """
    runs = []
    for every in (0.0, 0.2):
        shutil.rmtree(out, ignore_errors=True)
        runs.append(measured(command, every=every))
    alone, watched = runs
    return {**alone, "watched_s": watched["wall_s"], "peak_bytes": watched["peak_bytes"]}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--checkpoints", type=int, default=30)
    parser.add_argument("--sets", type=int, default=40)
    parser.add_argument("--units", type=int, default=1, choices=(1, 2), help="2: bits per byte too")
    parser.add_argument("--keep", type=Path, help="folder for the table and the results")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        out = folder / "report"
        if out.exists():
            sys.exit(f"{out} exists: delete it, or choose another folder for --keep")
        table, truth = planted(given.runs, given.checkpoints, given.sets, given.units)
        path = tables.write(table, folder / "losses.parquet")
        del table
        load = [sys.executable, "-c", f"from lossline import tables; tables.load({str(path)!r})"]
        fit = [sys.executable, "-m", "lossline.fit", f"--table={path}", f"--out={out}"]
        fit.append("--gin.fit.x_sets=('x',)")
        found = {name: twice(command, out) for name, command in (("load", load), ("fit", fit))}
        error, lines = worst(out, truth)
    for name, numbers in found.items():
        print(
            f"{name}: {numbers['wall_s']:.1f} s, {numbers['cpu_s']:.1f} s of CPU, "
            f"{numbers['peak_bytes'] / 2**30:.2f} GiB",
            flush=True,
        )
    print(f"{lines} planted lines, largest error at x = 3: {error:.2%}")
    facts = {"date": date.today().isoformat(), "cores": os.cpu_count(), "jax": jax.__version__}
    size = {name: getattr(given, name) for name in ("runs", "checkpoints", "sets", "units")}
    tree = {**facts, **size, **found, "lines": lines, "largest_error": error}
    (HERE / "simulated_scale.json").write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
