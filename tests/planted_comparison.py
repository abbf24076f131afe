"""A loss table of methods on targets, whose effects, seeds and noise are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossline import tables

BYTES = 1000
EFFECTS = {"uniform": 0.0, "dsir": -0.1, "oracle": -0.3}


def planted(
    *,
    effects: Mapping[str, float] = EFFECTS,
    targets: Sequence[str] = ("code", "bio"),
    seeds: int = 3,
    noise: float = 0.01,
    seed_noise: float = 0.05,
    seed: int = 0,
    level: float = 2.0,
) -> pd.DataFrame:
    """Return two checkpoints of each run on one set per target, named like the target.

    ``uniform`` was made for no target and counts for each. bits per byte at the last checkpoint =
    level + effect of the method + effect of the seed + noise.
    """
    random = np.random.default_rng(seed)
    of_seed = seed_noise * random.normal(size=seeds)
    rows = []
    for method, effect in effects.items():
        for made_for in ["any"] if method == "uniform" else targets:
            for number in range(seeds):
                facts = {
                    "run_id": f"{method}-{made_for}-{number}",
                    "seed": number,
                    "params": 4e5,
                    "factor.method": method,
                    "factor.target": made_for,
                    "factor.seed": f"seed-{number}",
                    "pretraining_data": f"{made_for}-{method}",
                    "learning_rate": 1e-3,
                }
                for target in targets:
                    bits = level + effect + of_seed[number] + noise * random.normal()
                    for step, more in ((10, 1.0), (20, 0.0)):
                        rows.append(
                            facts
                            | {
                                "step": step,
                                "tokens": step * 1e4,
                                "eval_set": target,
                                "kind": "task",
                                "nats": (bits + more) * math.log(2) * BYTES,
                                "target_bytes": BYTES,
                                "target_tokens": 300,
                            }
                        )
    return tables.from_rows(rows)
