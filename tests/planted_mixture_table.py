"""Loss tables of runs on mixtures of web and code text, with planted laws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline import tables

SIZES = (1e7, 2e7, 4e7, 8e7)
CODE = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
BEST_CODE = 0.3  # share of code at which the loss on ``mixed`` is lowest


def loss(domain: str, n: float, d: float, code: float) -> float:
    """Return the planted loss; that of ``mixed`` is lowest at ``BEST_CODE``."""
    scale = 1.5 + 30 * n**-0.3 + 60 * d**-0.3
    away = {"wiki": 0.8 * code, "python": 1.2 * np.exp(-5 * code), "mixed": 0.0}[domain]
    bowl = 4.0 * (code - BEST_CODE) ** 2 if domain == "mixed" else 0.0
    return float(scale + away + bowl)


def table(
    sizes: Sequence[float] = SIZES, code: Sequence[float] = CODE, *, noise: float = 0.002
) -> pd.DataFrame:
    """Return a loss table: one run per size and share, three checkpoints each."""
    random = np.random.default_rng(0)
    rows = []
    for n in sizes:
        for share in code:
            for part in (1, 2, 3):
                d = 20 * n * part / 3
                common = {
                    "run_id": f"n={n:.0e} code={share:g}", "architecture": "llama",
                    "pretraining_data": f"mixture {share:g}", "tokenizer": "bpe", "params": n,
                    "step": part, "tokens": d, "flops": 6 * n * d, "status": "ok",
                    "share.web": 1 - share, "share.code": share,
                }  # fmt: skip
                for domain, kind in (("wiki", "validation"), ("python", "validation"),
                                     ("mixed", "task")):  # fmt: skip
                    value = loss(domain, n, d, share) * np.exp(noise * random.normal())
                    unit = "loss" if kind == "validation" else "bits_per_byte"
                    score = {"accuracy": 0.25 + 0.2 * (4 - value)} if kind == "task" else {}
                    rows.append({**common, "eval_set": domain, "kind": kind, unit: value, **score})
    return tables.from_rows(rows)
