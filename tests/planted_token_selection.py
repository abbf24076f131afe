"""A loss table of continued runs on selections of tokens, whose lines are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from lossline import tables

ARMS = {"plain": 0.0, "excess-60": 0.3, "random-60": 0.0}  # nats that the arm's line lies higher
SELECTIONS = {
    "plain": "all",
    "excess-60": "excess loss 60% of the batch, reference tuned step 9",
    "random-60": "random 60% of the corpus",
}
STEPS = (49, 98, 147, 196)
LONG = (*STEPS, 307, 419, 530)
COST = 334  # steps that the selection by a reference is worth


def planted(*, seeds: int = 3, noise: float = 0.003, seed: int = 0) -> pd.DataFrame:
    """Return runs of each arm and seed, measured on pubmed and wiki.

    Loss on pubmed = 3.5 - 0.1 ln(step) (0.15 with selection by excess loss); loss on wiki = 1.2
    (pubmed - 1) + the arm's value of ``ARMS``.
    """
    random = np.random.default_rng(seed)
    rows = []
    for arm, higher in ARMS.items():
        selective = arm == "excess-60"
        for number in range(seeds):
            facts = {
                "run_id": f"{arm}-{number}", "seed": number, "params": 1e6, "factor.arm": arm,
                "factor.seed": f"seed-{number}", "token_selection": SELECTIONS[arm],
                "pretraining_data": "noisy", "architecture": "llama", "tokenizer": "bpe",
                "selection_flops": COST * 1e12 if selective else 0.0,
            }  # fmt: skip
            for step in STEPS if selective else LONG:
                slope = 0.15 if selective else 0.1
                target = 3.5 - slope * math.log(step) + noise * random.normal()
                general = 1.2 * (target - 1) + higher + noise * random.normal()
                share = 1.0 if arm == "plain" else 0.6
                checkpoint = {"step": step, "tokens": step * 2048.0, "flops": step * 1e12,
                              "trained_tokens": share * step * 2048.0}  # fmt: skip
                for name, loss in (("pubmed", target), ("wiki", general)):
                    measured = {"eval_set": name, "kind": "validation", "nats": loss * 1e5,
                                "target_tokens": 100_000, "target_bytes": 300_000}  # fmt: skip
                    rows.append(facts | checkpoint | measured)
    return tables.from_rows(rows)
