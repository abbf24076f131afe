"""A planted study of known truth: every loss lies on a shifted power law."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lossline import tables
from lossline.attribution.results import (
    Attribution,
    Effect,
    FactorAttribution,
    Interval,
    Verdict,
)
from lossline.fits.results import ComputeLawFit, TableFit
from lossline.laws.results import FitStatus
from lossline.lines.estimators import PARAMETERS
from lossline.lines.fitting import Line
from lossline.reporting.lines import Curve, drawable

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
    """Runs of a planted study."""

    sizes: tuple[float, ...] = (4e5, 1e6, 2.5e6)
    architectures: tuple[str, ...] = ("llama", "mamba")
    data: tuple[str, ...] = DATA
    checkpoints: int = 12
    noise: float = 0.006
    interventions: bool = True
    seed: int = 0


def table(recipe: Recipe = Recipe()) -> pd.DataFrame:
    """Return a loss table."""
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
                        pretraining_data=recipe.data[-1], tokenizer="bpe-4096",
                        optimizer="adamw", learning_rate=3e-3)  # fmt: skip
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
    """Return the factor from nats per token to bits per byte."""
    return 1.0 / (BYTES_PER_TOKEN[tokenizer] * math.log(2.0))


def lines() -> tuple[Line, ...]:
    """Return the planted lines of the usual tokenizer, per data and architecture, in both units.

    The last line was not fitted: its group has one run.
    """
    made = []
    for data in DATA:
        for architecture in ("llama", "mamba"):
            group = dict(pretraining_data=data, architecture=architecture, tokenizer="bpe-4096")
            for y in (name for name in (*VALIDATION, *TASKS) if (data, name) in PLANTED):
                made += [line(group, y, unit) for unit in ("loss", "bits_per_byte")]
    alone = dict(pretraining_data="wiki", architecture="llama", tokenizer="unigram-4096")
    lack = "1 run, at least 2 are needed; train another size"
    failed = Line(x_set="wiki", y_set="hellaswag", group=alone, n_runs=1, n_points=12, message=lack)
    return (*made, failed)


def line(group: dict, y: str, unit: str) -> Line:
    """Return a planted law as a fitted line, with draws of its parameters around the truth."""
    K, kappa, E_y = PLANTED[group["pretraining_data"], y]
    scale = 1.0 if unit == "loss" else bits_scale(group["tokenizer"])
    truth = np.zeros(len(PARAMETERS))  # K, kappa, E_x, E_y, and terms that are not planted
    truth[:4] = K * scale ** (1 - kappa), kappa, E_X * scale, E_y * scale
    noise = np.random.default_rng(0).standard_normal((200, len(PARAMETERS)))
    noise[:, :4] *= [0.02, 0.02, 0.01, 0.005]
    return Line(
        x_set="wiki", y_set=y, group=group, unit=unit, status=FitStatus.CONVERGED, r2=0.9987,
        parameters=dict(zip(("K", "kappa", "E_x", "E_y"), map(float, truth), strict=False)),
        r2_linear=0.9901, n_runs=3, n_points=36, x_range=(2.2 * scale, 4.6 * scale),
        draws=truth * (1 + noise), scatter=0.006,
    )  # fmt: skip


def curves() -> list[Curve]:
    """Return the planted lines as curves."""
    return drawable(lines())


def results(recipe: Recipe = Recipe()) -> TableFit:
    """Return planted results with everything that a report shows."""
    losses = table(recipe)
    failed = (
        (losses["run_id"] == "run-004") & (losses["step"] == 300) & (losses["eval_set"] == "wiki")
    )
    losses.loc[failed, ["status", "message"]] = ["failed", "NaN logits in document 17"]
    losses.loc[failed, ["nats", "loss", "bits_per_byte"]] = math.nan
    return TableFit(
        table=losses,
        lines=lines(),
        compute_laws=laws(),
        attribution=_attribution(),
        heldout=_held_out(),
        excluded=pd.DataFrame(
            [{"what": "checkpoints before 5% of training", "rows": 96, "reason": "warm-up"}]
        ),
        settings={"fit": {"bootstrap": 1000, "seed": 0, "cut": 0.05}, "x_sets": ("wiki",)},
        provenance={
            "command": "python -m lossline.fit --gin_file=planted.gin",
            "table": "planted",
            "versions": {"lossline": "0.1.0", "numpy": "2.4.6"},
        },
    )


def laws() -> tuple[ComputeLawFit, ...]:
    """Return the planted law of the loss on wiki for the Llamas."""
    truth = {"E": E_X, "A": 1.3 * 4e4**0.35, "B": 1.3 * 3.5e6**0.42, "alpha": 0.35, "beta": 0.42}
    return tuple(
        ComputeLawFit(
            group={"pretraining_data": data, "architecture": "llama", "tokenizer": "bpe-4096"},
            eval_set="wiki", unit="loss", law="chinchilla", equation="L = E + A/N^α + B/D^β",
            status="converged", parameters=truth, E_low=1.42, E_high=1.57, r2=0.9991, n_runs=3,
            n_points=36,
        )
        for data in DATA
    )  # fmt: skip


def effect(factor: str, unit: str, value: float, p: float, **changes) -> Effect:
    """Return an effect with an interval of at least ±15% of the value."""
    half = max(0.15 * abs(value), 0.02)
    fields = dict(
        factor=factor, x_set="wiki", y_set="hellaswag", unit=unit, low_level="wiki",
        high_level="pubmed", move=Interval(value=value, low=value - half, high=value + half),
        p_value=p / 3, p_corrected=p, p_resampled=p / 2, share=0.4, partial_r2=0.5, degrees=9.0,
        noise=0.01, margin=0.05, noise_from="own", runs=12, groups=6, x_low=2.2, x_high=4.6,
    )  # fmt: skip
    # Fields that the report does not show may have any value.
    known = {name: fields.get(name, 1.0) for name in Effect.__dataclass_fields__}
    return Effect(**{**known, **changes})


def _attribution() -> Attribution:
    def factor(name, levels, verdict, sentence, nats=None, bits=None, message=""):
        effects = ()
        if nats is not None:
            nats, bits = effect(name, "loss", *nats), effect(name, "bits_per_byte", *bits)
            half = Interval(value=0.5 * nats.move.value, low=-1.0, high=1.0)
            effects = (nats, replace(nats, y_set="arc_easy", move=half), bits)
        return FactorAttribution(
            factor=name, label=name.replace("_", " "), levels=levels, verdict=verdict,
            sentence=sentence, message=message, nats=nats, bits_per_byte=bits, effects=effects,
            p_corrected=nats.p_corrected if nats else math.nan,
        )  # fmt: skip

    sizes = ("400000", "1000000", "2500000")
    return Attribution(
        x_set="wiki",
        factors=(
            factor("pretraining_data", DATA, Verdict.MOVES,
                   "Changing the pretraining data moves the line. At equal loss on wiki, the loss "
                   "on hellaswag changes by 0.45 nats.", (0.45, 0.0004), (0.16, 0.0004)),
            factor("tokenizer", ("bpe-4096", "unigram-4096"), Verdict.MOVES,
                   "Changing the tokenizer moves the line per token, but not per byte.",
                   (-0.11, 0.01), (0.004, 0.8)),
            factor("architecture", ("llama", "mamba"), Verdict.NO_MOVE,
                   "Changing the architecture does not move the line.", (0.004, 0.7), (0.001, 0.6)),
            factor("learning_rate", ("0.003", "0.001"), Verdict.UNRESOLVED,
                   "Inconclusive: these runs cannot show whether changing the learning rate moves "
                   "the line.", (0.03, 0.2), (0.01, 0.2)),
            factor("params", sizes, Verdict.CONFOUNDED, "Confounded: size never changes alone.",
                   message="size never changes alone: every pair of sizes differs in tokens"),
            factor("context_length", ("256",), Verdict.CONSTANT, "One context length only."),
        ),
    )  # fmt: skip


def _held_out() -> pd.DataFrame:
    random = np.random.default_rng(1)
    rows = []
    for method, spread in (("line", 0.006), ("straight line", 0.02), ("compute law", 0.04)):
        for unit, scale in (("loss", 1.0), ("bits_per_byte", bits_scale("bpe-4096"))):
            for data in DATA:
                for y in TASKS:
                    measured = scale * random.uniform(2.4, 3.4)
                    error = spread * random.standard_normal()
                    rows.append({
                        "run_id": f"big-{data}", "pretraining_data": data, "architecture": "llama",
                        "tokenizer": "bpe-4096", "x_set": "wiki", "y_set": y, "unit": unit,
                        "method": method, "measured": measured, "predicted": measured * (1 + error),
                        "low": measured * (1 + error - 2 * spread),
                        "high": measured * (1 + error + 2 * spread), "relative_error": error,
                    })  # fmt: skip
    return pd.DataFrame(rows)
