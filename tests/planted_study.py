"""Studies with planted moves: the effect of each factor on the lines is known."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from lossline import tables

BYTES_PER_TOKEN = 4.0  # of the bpe vocabulary
# Bytes of a unigram token per byte of a bpe token. The ratio depends on the text.
UNIGRAM = {"legal": 0.9, "wiki": 1.0, "python": 1.15, "hellaswag": 1.05}
FINAL = 12  # checkpoints
SETS = {"legal": 0.0, "wiki": 0.3, "python": -0.4, "hellaswag": 0.8}


class Study:
    """A study of {llama, mamba} × three sets × two sizes.

    On one set there is also another tokenizer and another optimizer setting. Lines are y = 1.05 (x
    - 1.5)^0.97 + 1.4 + offset of the set. ``moves`` adds to y on every set except the x set, per
    level: ``{"architecture": {"mamba": 0.2}}``. Each run deviates from its line by ``run_noise``;
    checkpoints deviate a little too, with neighbors correlated. Losses are drawn in nats per token
    of the bpe vocabulary and converted for the other one, so a tokenizer moves lines per token and
    not per byte, unless ``moves`` adds a move.
    """

    def __init__(
        self,
        *,
        moves: Mapping[str, Mapping[str, float]] | None = None,
        run_noise: float = 0.03,
        checkpoint_noise: float = 0.01,
        tilt_noise: float = 0.02,
        seeds: int = 1,
        seed: int = 0,
        sets: Mapping[str, float] = SETS,
    ) -> None:
        self.moves, self.sets = moves or {}, sets
        self.run_noise, self.checkpoint_noise, self.tilt_noise = (
            run_noise,
            checkpoint_noise,
            tilt_noise,
        )
        self.seeds = seeds
        self.random = np.random.default_rng(seed)

    def runs(self) -> list[dict]:
        base = {
            "tokenizer": "bpe",
            "schedule": "cosine",
            "learning_rate": 3e-3,
            "optimizer": "adamw",
        }
        base |= {"context_length": 256, "weight_decay": 0.1}
        runs = [
            base | {"architecture": architecture, "pretraining_data": data, "params": size}
            for architecture in ("llama", "mamba")
            for data in ("wiki", "pubmed", "python")
            for size in (1e6, 2e6)
        ]
        for architecture in ("llama", "mamba"):
            for size in (1e6, 2e6):
                like = base | {
                    "architecture": architecture,
                    "pretraining_data": "wiki",
                    "params": size,
                }
                runs.append(like | {"tokenizer": "unigram"})
                runs.append(like | {"schedule": "constant", "learning_rate": 1e-3})
        # Parameter counts of two architectures never agree exactly.
        for run in runs:
            run["params"] *= 1.05 if run["architecture"] == "mamba" else 1.0
        return [run | {"seed": seed} for run in runs for seed in range(self.seeds)]

    def table(self) -> pd.DataFrame:
        rows = []
        for number, facts in enumerate(self.runs()):
            rows += self._rows(facts | {"run_id": f"run-{number:02d}"})
        return tables.from_rows(rows)

    def _rows(self, facts: dict) -> list[dict]:
        step = np.arange(1, FINAL + 1)
        shift = 0.25 * self.random.uniform(-1, 1) + {"python": 0.4}.get(
            facts["pretraining_data"], 0.0
        )
        small = facts["params"] < 1.5e6
        x = 3.2 + shift + 0.3 * small + 2.0 * step**-0.7
        moved = sum(levels.get(facts[factor], 0.0) for factor, levels in self.moves.items())
        rows = []
        for name, offset in self.sets.items():
            y = x if name == "legal" else self._line(x, offset + moved)
            per_token = UNIGRAM.get(name, 1.0) if facts["tokenizer"] == "unigram" else 1.0
            for at, value in zip(step, y, strict=True):
                rows.append(
                    facts
                    | {
                        "step": int(at),
                        "tokens": float(at) * 1e6,
                        "flops": 6e6 * at * facts["params"],
                        "eval_set": name,
                        "kind": "task" if name == "hellaswag" else "validation",
                        "loss": value * per_token,
                        "bits_per_byte": value / math.log(2) / BYTES_PER_TOKEN,
                    }
                )
        return rows

    def _line(self, x: np.ndarray, offset: float) -> np.ndarray:
        noise = self.run_noise * self.random.normal() + self.tilt_noise * self.random.normal() * (
            x - x.mean()
        )
        error = self.random.normal(size=len(x)) * self.checkpoint_noise
        for j in range(1, len(x)):
            error[j] = 0.7 * error[j - 1] + math.sqrt(1 - 0.7**2) * error[j]
        return 1.05 * (x - 1.5) ** 0.97 + 1.4 + offset + noise + error
