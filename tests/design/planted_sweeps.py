"""Loss tables of final checkpoints with planted laws, for designs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline import tables

SIZES = (2e7, 4e7, 8e7, 1.6e8)
RATIOS = (5.0, 10.0, 20.0, 40.0)
DATA = ("web", "code")


def own_loss(n: float, d: float, data: str) -> float:
    """Return the loss on the run's own set."""
    web = 1.7 + 400 * n**-0.34 + 900 * d**-0.3
    return web if data == "web" else 0.7 + 0.9 * (web - 1.5) ** 1.1


def task_loss(own: float) -> float:
    """Return the loss on the task, a line of the own loss."""
    return 0.4 + 0.8 * (own - 0.5) ** 1.2


def table(
    sizes: Sequence[float] = SIZES, ratios: Sequence[float] = RATIOS, *,
    data: Sequence[str] = DATA, noise: float = 0.002, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Return a loss table of runs at all sizes and tokens per parameter."""
    random = np.random.default_rng(seed)
    rows = []
    for name in data:
        for n in sizes:
            for ratio in ratios:
                d = n * ratio
                own = own_loss(n, d, name)
                common = {
                    "run_id": f"{name} n={n:.3g} r={ratio:g}", "architecture": "llama",
                    "pretraining_data": name, "tokenizer": "bpe", "params": n, "tokens": d,
                    "step": 1, "flops": 6 * n * d, "status": "ok",
                }  # fmt: skip
                for place, kind, loss in (
                    ("own", "validation", own),
                    ("task", "task", task_loss(own)),
                ):
                    value = loss * np.exp(noise * random.normal())
                    rows.append({**common, "eval_set": place, "kind": kind, "loss": value})
    return tables.from_rows(rows)


def factor_table(runs: dict[str, int], *, noise: float = 0.01, seed: int = 0) -> pd.DataFrame:
    """Return matched runs of two architectures of one size: so many of each, evenly over ln D."""
    random = np.random.default_rng(seed)
    rows = []
    for architecture, count in runs.items():
        for number, d in enumerate(np.geomspace(2e8, 3.2e9, count)):
            x = 1.7 + 900 * d**-0.3
            y = 0.5 + 0.9 * x + 0.1 * (architecture == "mamba") + noise * random.normal()
            common = {
                "run_id": f"{architecture} {number}", "architecture": architecture,
                "pretraining_data": "web", "tokenizer": "bpe", "params": 4e7, "tokens": d,
                "step": 1, "flops": 6 * 4e7 * d, "kind": "validation", "status": "ok",
            }  # fmt: skip
            rows += [
                {**common, "eval_set": "wiki", "loss": x},
                {**common, "eval_set": "books", "loss": y},
            ]
    return tables.from_rows(rows)
