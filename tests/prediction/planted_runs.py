"""Loss tables of runs with planted laws: scale to losses, and to the accuracy of tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.special import expit

from lossline import tables

Law = Callable[[float, float], float]  # of N and D

SIZES = (1e8, 2.5e8, 6.3e8, 1.6e9)
RATIOS = (10.0, 40.0)  # tokens per parameter
TARGET = "n=6.4e+09 r=20"  # the run of most compute
CHANCE = 0.25


def validation_loss(n: float, d: float) -> float:
    """Return L = 1.7 + 400 N^-0.34 + 900 D^-0.3."""
    return 1.7 + 400 * n**-0.34 + 900 * d**-0.3


def gold_loss(n: float, d: float) -> float:
    """Return the loss of gold answers, bits per byte."""
    return 0.4 + 30 * n**-0.25 + 40 * d**-0.22


def score(gold: float) -> float:
    """Return an accuracy between chance and 1, a sigmoid of the loss of gold answers."""
    return CHANCE + (1 - CHANCE) * float(expit(4.0 * (0.85 - gold)))


def runs(
    sizes: Sequence[float] = SIZES, ratios: Sequence[float] = RATIOS, target: bool = True
) -> list[tuple[str, float, float]]:
    """Return (name, N, D) of a ladder of runs, and of one larger run."""
    ladder = [(f"n={n:.3g} r={r:g}", n, n * r) for n in sizes for r in ratios]
    return [*ladder, (TARGET, 6.4e9, 6.4e9 * 20)] if target else ladder


def table(
    models: Sequence[tuple[str, float, float]] | None = None,
    *,
    checkpoints: int = 12,
    loss: Law = validation_loss,
    gold: Law = gold_loss,
    tasks: Mapping[str, Law] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    **facts: object,
) -> pd.DataFrame:
    """Return a loss table.

    Args:
        models: (name, N, D) of the runs.
        checkpoints: of each run, evenly spaced in tokens.
        loss: mean validation loss as a function of N and D.
        gold: loss of gold answers as a function of N and D.
        tasks: name -> accuracy as a function of N and D.
        noise: standard deviation of the accuracies and of the logarithms of losses.
        seed: seed of the noise.
        facts: further columns, one value each.
    """
    random = np.random.default_rng(seed)
    tasks = tasks or {"arc_easy": lambda n, d: score(gold(n, d))}
    rows = []
    for name, n, full in models or runs():
        for i in range(1, checkpoints + 1):
            d = full * i / checkpoints
            common = {
                "run_id": name,
                "architecture": "llama",
                "pretraining_data": "web",
                "tokenizer": "bpe",
                "params": n,
                "step": i * 100,
                "tokens": d,
                "flops": 6 * n * d,
                "status": "ok",
                **facts,
            }
            for place, offset in (("c4", -0.2), ("wiki", 0.2)):
                value = (loss(n, d) + offset) * np.exp(noise * random.normal())
                rows.append({**common, "eval_set": place, "kind": "validation", "loss": value})
            for task, accuracy in tasks.items():
                bits = gold(n, d) * np.exp(noise * random.normal())
                value = accuracy(n, d) + noise * random.normal()
                rows.append(
                    {
                        **common,
                        "eval_set": task,
                        "kind": "task",
                        "bits_per_byte": bits,
                        "accuracy": float(np.clip(value, 0, 1)),
                        "questions": 2000,
                    }
                )
    return tables.from_rows(rows)
