"""A study with a known truth: every loss lies on planted shifted power laws."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from lossline import tables
from lossline.reporting.lines import Curve
from lossline.reporting.points import Unit

DATA = ("legal", "pubmed", "wiki")
VALIDATION = ("legal", "pubmed", "wiki", "python")
TASKS = ("arc_easy", "hellaswag")
BYTES_PER_TOKEN = {"bpe-4096": 3.9, "unigram-4096": 3.6}
# Planted (K, kappa, E_y) of every set against wiki (E_x = 1.5), per pretraining data.
E_X = 1.5
PLANTED = {
    ("legal", "legal"): (0.55, 1.05, 0.9), ("legal", "pubmed"): (1.25, 0.95, 2.0),
    ("legal", "python"): (1.3, 0.9, 1.9), ("legal", "hellaswag"): (0.9, 0.85, 2.5),
    ("legal", "arc_easy"): (1.0, 0.8, 2.9),
    ("pubmed", "legal"): (1.1, 0.95, 1.9), ("pubmed", "pubmed"): (0.7, 1.05, 1.2),
    ("pubmed", "python"): (1.25, 0.9, 2.0), ("pubmed", "hellaswag"): (0.85, 0.9, 2.6),
    ("pubmed", "arc_easy"): (0.95, 0.85, 2.4),
    ("wiki", "legal"): (1.05, 0.95, 1.7), ("wiki", "pubmed"): (1.15, 1.0, 1.7),
    ("wiki", "python"): (1.2, 0.9, 1.9), ("wiki", "hellaswag"): (0.8, 0.9, 2.2),
    ("wiki", "arc_easy"): (0.9, 0.8, 2.3),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Which runs a planted study has."""

    sizes: tuple[float, ...] = (4e5, 1e6, 2.5e6)
    architectures: tuple[str, ...] = ("llama", "mamba")
    data: tuple[str, ...] = DATA
    checkpoints: int = 12
    noise: float = 0.006
    interventions: bool = True
    seed: int = 0


@dataclass(frozen=True)
class PlantedLine:
    """Stands in for a fitted line: the planted law with a band that widens away from the middle."""

    x_set: str
    y_set: str
    group: dict
    K: float
    kappa: float
    E_y: float
    scale: float = 1.0
    parameters: dict = field(default_factory=dict)

    def predict(self, x):
        x = np.asarray(x, float) / self.scale
        return self.scale * (self.K * np.maximum(x - E_X, 1e-10) ** self.kappa + self.E_y)

    def band(self, x, level=0.9):
        half = self.scale * (0.02 + 0.03 * np.abs(np.asarray(x, float) / self.scale - 4.0)) * level
        return self.predict(x) - half, self.predict(x) + half


def table(recipe: Recipe = Recipe()) -> pd.DataFrame:
    """A loss table in the schema's form."""
    random = np.random.default_rng(recipe.seed)
    runs = [
        dict(architecture=architecture, pretraining_data=data, params=size, tokenizer="bpe-4096",
             optimizer="adamw", learning_rate=3e-3)
        for architecture in recipe.architectures
        for data in recipe.data
        for size in recipe.sizes
    ]  # fmt: skip
    if recipe.interventions:
        for size in recipe.sizes[-2:]:
            base = dict(architecture=recipe.architectures[0], params=size,
                        pretraining_data=recipe.data[-1], tokenizer="bpe-4096", optimizer="adamw", learning_rate=3e-3)  # fmt: skip
            runs += [{**base, "tokenizer": "unigram-4096"}, {**base, "learning_rate": 1e-3}]
    rows = []
    for number, facts in enumerate(runs):
        rows += _run(f"run-{number:03d}", facts, recipe, random)
    return tables.from_rows(rows)


def _run(run_id: str, facts: dict, recipe: Recipe, random: np.random.Generator) -> list[dict]:
    tokens = np.geomspace(1e6, 3e7, recipe.checkpoints)
    penalty = 1.08 if facts["learning_rate"] < 2e-3 else 1.0
    slower = 1.05 if facts["architecture"] == "mamba" else 1.0
    x = E_X + slower * penalty * ((4e4 / facts["params"]) ** 0.35 + (3.5e6 / tokens) ** 0.42) * 1.3
    per_token = BYTES_PER_TOKEN[facts["tokenizer"]]
    rows = []
    for name in (*VALIDATION, *TASKS):
        if name == "wiki":
            mean = x
        else:
            K, kappa, E_y = PLANTED[facts["pretraining_data"], name]
            mean = K * (x - E_X) ** kappa + E_y
        # Fewer bytes in a token: fewer nats per token, about as many bits per byte.
        loss = mean * per_token / 3.9 * np.exp(recipe.noise * random.standard_normal(len(x)))
        targets = 100_000 if name in VALIDATION else 5_000
        for step, (count, value) in enumerate(zip(tokens, loss, strict=True), start=1):
            rows.append({
                "run_id": run_id, **facts, "context_length": 256, "schedule": "cosine",
                "weight_decay": 0.1, "params_non_embedding": facts["params"] * 0.6, "seed": 0,
                "source": "planted", "step": 100 * step, "tokens": float(count),
                "flops": 6.0 * facts["params"] * count, "eval_set": name,
                "kind": "validation" if name in VALIDATION else "task",
                "nats": value * targets, "target_tokens": targets,
                "target_bytes": round(per_token * targets), "documents": 200,
                "truncated": 0, "status": "ok",
            })  # fmt: skip
    return rows


def bits_scale(tokenizer: str) -> float:
    """Factor from nats per token to bits per byte."""
    return 1.0 / (BYTES_PER_TOKEN[tokenizer] * math.log(2.0))


def curves() -> list[Curve]:
    """The planted lines of the usual tokenizer, per data and architecture, in both units."""
    made = []
    for (data, y), (K, kappa, E_y) in PLANTED.items():
        for architecture in ("llama", "mamba"):
            for unit, scale in ((Unit.NATS, 1.0), (Unit.BITS, bits_scale("bpe-4096"))):
                facts = dict(architecture=architecture, pretraining_data=data, tokenizer="bpe-4096")
                line = PlantedLine("wiki", y, facts, K, kappa, E_y, scale)
                made.append(
                    Curve(line=line, facts=facts, unit=unit, domain=(2.2 * scale, 4.6 * scale))
                )
    return made
