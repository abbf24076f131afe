"""Measure how often 90% bands of planted lines cover the truth, by shape, noise and number of runs.

    python experiments/lines/bands.py --out experiments/lines

Plants y = K (x - E_x)^kappa + E_y. Each run has its own error, and errors of its checkpoints are
autocorrelated. Fits each sweep with ``fit_line`` and counts how often ``Line.band`` covers the
planted line at the lowest x, in the middle of the range and at the highest x. Prints one table and
writes bands.json. With 400 sweeps per cell a share of 90% has a 95% interval of 3 points. Takes
about ten minutes on two cores; ``--sweeps 100`` takes a quarter of it; ``--shape``, ``--noise`` and
``--runs`` choose cells. README.md has the result.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# One BLAS thread per process: the matrices are small.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd

from lossline.lines.fitting import fit_line
from lossline.tables.pairing import Pairing, Pairs

Array = np.ndarray

LEVEL = 0.9
PLACES = ("low", "middle", "high")
# Correlation of the errors of neighboring checkpoints.
MEMORY = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """A planted line and the range of x of its sweep."""

    kappa: float
    E_x: float
    x: tuple[float, float] = (2.4, 4.4)
    K: float = 0.9
    E_y: float = 1.9

    def y(self, x: Array) -> Array:
        """Return the planted line at x."""
        return self.K * (x - self.E_x) ** self.kappa + self.E_y


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
    """Relative standard deviations of y: of a run as a whole, and of a checkpoint within it."""

    run: float
    checkpoint: float


SHAPES = {
    "straight": Shape(kappa=1.0, E_x=1.6),
    "mild": Shape(kappa=0.9, E_x=1.6),
    "bend 2.1": Shape(kappa=0.5, E_x=2.0, x=(2.1, 4.4)),
    "bend 2.3": Shape(kappa=0.5, E_x=2.0, x=(2.3, 4.4)),
    "bend 2.6": Shape(kappa=0.5, E_x=2.0, x=(2.6, 4.4)),
    "upward": Shape(kappa=2.0, E_x=1.0, K=0.3),
}
NOISES = {"low": Noise(run=0.002, checkpoint=0.001), "high": Noise(run=0.01, checkpoint=0.005)}
# Number of runs, and of checkpoints per run.
DESIGNS = (
    (2, 6), (3, 6), (4, 6), (6, 6), (8, 6), (12, 6), (4, 1), (6, 1), (8, 1), (12, 1), (24, 1),
)  # fmt: skip


def sweep(shape: Shape, noise: Noise, runs: int, checkpoints: int, seed: int) -> Pairs:
    """Return runs of several sizes with losses at several token counts each.

    The largest run ends at the lowest x, and the smallest begins at the highest.
    """
    random = np.random.default_rng(seed)
    params = np.repeat(2e7 * 2.0 ** np.linspace(0, 5, runs), checkpoints)
    if checkpoints > 1:
        tokens = np.tile(np.geomspace(2e8, 2e10, checkpoints), runs)
    else:  # compute-optimal runs, spread about 20 tokens per parameter
        tokens = 20 * params * np.exp(random.uniform(-1, 1, runs))
    share = _scaled(params**-0.35) + _scaled(tokens**-0.35)
    x = shape.x[0] + (shape.x[1] - shape.x[0]) * _scaled(share)
    error = np.repeat(noise.run * random.standard_normal(runs), checkpoints)
    error += noise.checkpoint * _autocorrelated(random, runs, checkpoints).ravel()
    return Pairs(
        x=x, y=shape.y(x) * np.exp(error), params=params, tokens=tokens, flops=6 * params * tokens,
        runs=np.repeat([f"run {i:02}" for i in range(runs)], checkpoints), how=Pairing.CHECKPOINT,
    )  # fmt: skip


def _scaled(values: Array) -> Array:
    """Return values scaled to the range 0 to 1."""
    return (values - values.min()) / np.ptp(values)


def _autocorrelated(random: np.random.Generator, runs: int, checkpoints: int) -> Array:
    """Return standard normal errors (runs, checkpoints), AR(1) along the checkpoints."""
    fresh = random.standard_normal((runs, checkpoints))
    errors = fresh.copy()
    for i in range(1, checkpoints):
        errors[:, i] = MEMORY * errors[:, i - 1] + np.sqrt(1 - MEMORY**2) * fresh[:, i]
    return errors


def cell(names: tuple[str, str, int, int], sweeps: int) -> dict[str, object]:
    """Return coverage, median width and mean error (percent of y) at three positions."""
    shape, noise, runs, checkpoints = SHAPES[names[0]], NOISES[names[1]], names[2], names[3]
    at = np.array([shape.x[0], float(np.mean(shape.x)), shape.x[1]])
    truth = shape.y(at)
    held, width, error = [], [], []
    for seed in range(sweeps):
        line = fit_line(sweep(shape, noise, runs, checkpoints, seed))
        low, high = line.band(at, LEVEL)
        held.append((low <= truth) & (truth <= high))
        width.append((high - low) / truth)
        error.append(line.predict(at) / truth - 1)
    found: dict[str, object] = dict(
        zip(("shape", "noise", "runs", "checkpoints"), names, strict=True)
    )
    for i, place in enumerate(PLACES):
        found[f"held {place}"] = 100 * float(np.mean(held, axis=0)[i])
        found[f"width {place}"] = 100 * float(np.median(width, axis=0)[i])
        found[f"bias {place}"] = 100 * float(np.mean(error, axis=0)[i])
    return found


def as_markdown(found: list[dict[str, object]], what: str) -> str:
    """Return a table of the cells: noise, runs and checkpoints by shape."""
    digits = 0 if what == "held" else 1
    frame = pd.DataFrame(found)
    frame["cell"] = [
        " ".join(f"{row[f'{what} {place}']:.{digits}f}" for place in PLACES)
        for _, row in frame.iterrows()
    ]
    where = ["noise", "runs", "checkpoints"]
    shapes = [shape for shape in SHAPES if shape in set(frame["shape"])]
    table = frame.set_index([*where, "shape"])["cell"].unstack("shape")[shapes].reset_index()
    table = table.sort_values(["noise", "checkpoints", "runs"], ascending=[False, False, True])
    lines = [" | ".join(map(str, row)) for row in table.itertuples(index=False)]
    header = [" | ".join(table.columns), "|".join(["---"] * len(table.columns))]
    return "\n".join(f"| {line} |" for line in (*header, *lines))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of bands.json")
    parser.add_argument("--sweeps", type=int, default=400, help="planted sweeps per cell")
    parser.add_argument("--shape", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--noise", nargs="*", default=list(NOISES), choices=list(NOISES))
    parser.add_argument("--runs", nargs="*", type=int, help="numbers of runs, default all")
    options = parser.parse_args()
    cells = [
        (shape, noise, *design)
        for design in DESIGNS
        if not options.runs or design[0] in options.runs
        for shape in options.shape
        for noise in options.noise
    ]
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        found = list(pool.map(cell, cells, [options.sweeps] * len(cells)))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "bands.json").write_text(
        json.dumps({"level": LEVEL, "sweeps": options.sweeps, "cells": found}, indent=1) + "\n"
    )
    for what in ("held", "width"):
        print(f"\n{what} at the low end, in the middle, at the high end, percent\n")
        print(as_markdown(found, what))


if __name__ == "__main__":
    main()
