"""Planted studies of known truth: runs, their noise, and what each factor does to the lines."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.attribution.results import Verdict
from lossline.tables.frames import complete, typed

Facts = dict[str, object]
Effect = Callable[[Facts], float]

COMMON: Facts = {
    "architecture": "llama", "pretraining_data": "wiki", "tokenizer": "bpe", "optimizer": "adamw",
    "context_length": 1024, "schedule": "cosine", "learning_rate": 3e-3, "weight_decay": 0.1,
    "token_selection": "all", "params": 1e8, "option.batch_size": "32",
    "option.schedule.warmup": "0.01", "option.documents": "joined",
}  # fmt: skip
BYTES_PER_TOKEN = {"bpe": 4.0, "unigram": 3.4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlantedStudy:
    """A design from which many tables can be drawn.

    Attributes:
        about: one-line description.
        factor: factor under test.
        truth: what this factor does: "moves", "by group", "per token", "small" or "nothing".
        runs: facts of each run.
        effect: nats added to the loss on every set but x, by run.
        noise: standard deviation of a run about its line, in nats.
        scale: factor on ``noise``, by run.
        checkpoints: number of checkpoints per run.
        tails: degrees of freedom of Student's t for the run noise; 0 for a normal distribution.
        start: standard deviation of the nats added to the first checkpoint of each run.
        outlier: nats added to one run, chosen at random.
        copies: whether every run is in the table twice.
        bend: exponent of the line.
        shift: nats added to x, by run.
        per_byte: nats per token of the bpe vocabulary added to both units, by run.
    """

    about: str
    factor: str
    truth: str
    runs: Sequence[Facts]
    effect: Effect = lambda facts: 0.0
    noise: float = 0.03
    scale: Effect = lambda facts: 1.0
    checkpoints: int = 6
    tails: int = 0
    start: float = 0.0
    outlier: float = 0.0
    copies: bool = False
    bend: float = 0.97
    shift: Effect = lambda facts: 0.0
    per_byte: Effect = lambda facts: 0.0

    @property
    def wrong(self) -> frozenset[Verdict]:
        """The verdicts that contradict the truth."""
        moving = {v for v in Verdict if v.moving}
        small = {Verdict.NO_MOVE, Verdict.BELOW}
        return frozenset(
            {
                "nothing": moving | {Verdict.BELOW},
                "small": moving - {Verdict.PROVISIONAL} | {Verdict.NO_MOVE},
                "moves": small | {Verdict.PER_TOKEN},
                "by group": small,
                "per token": small,
            }[self.truth]
        )


def grid(seeds: int = 1, **levels: Sequence[object]) -> list[Facts]:
    """Return the facts of one run per combination of levels and seed."""
    return [
        COMMON | dict(zip(levels, combination, strict=True)) | {"seed": seed}
        for combination in itertools.product(*levels.values())
        for seed in range(seeds)
    ]


def plant(study: PlantedStudy, random: np.random.Generator) -> pd.DataFrame:
    """Draw a loss table of a design: x set "legal", y sets "wiki" and "hellaswag"."""
    odd = int(random.integers(len(study.runs)))
    parts = []
    for number, facts in enumerate(study.runs):
        off = study.outlier if number == odd else 0.0
        parts.append(_run(study, {**facts, "run_id": f"run-{number:03d}"}, off, random))
    table = pd.concat(parts, ignore_index=True)
    if study.copies:
        again = table.assign(run_id=table["run_id"] + "-again")
        table = pd.concat([table, again], ignore_index=True)
    return typed(complete(table))


def _run(
    study: PlantedStudy, facts: Facts, off: float, random: np.random.Generator
) -> pd.DataFrame:
    count = study.checkpoints
    step = np.arange(1, count + 1)
    scale = study.noise * study.scale(facts)
    x = 2.9 + study.shift(facts) + 0.2 * random.uniform(-1, 1) + 1.5 * (step**-0.6 - count**-0.6)
    tokens = 1e8 * step
    moved = study.effect(facts) + off
    first = study.start * random.normal() * (step == 1)
    rows = {"legal": x}
    for name, offset in (("wiki", 0.0), ("hellaswag", 0.4)):
        height = random.standard_t(study.tails) if study.tails else random.normal()
        tilt = 0.5 * random.normal() * (x - x.mean())
        wave = 0.3 * np.convolve(random.normal(size=count + 2), np.full(3, 3**-0.5), "valid")
        line = 1.05 * (x - 1.8) ** study.bend + 1.2 + offset
        rows[name] = line + moved + first + scale * (height + tilt + wave)
        rows[name] += study.per_byte(facts)
    length = BYTES_PER_TOKEN[str(facts["tokenizer"])]
    share = length / BYTES_PER_TOKEN["bpe"]
    bytes_too = 1.0 if study.factor == "tokenizer" else math.nan
    parts = [
        pd.DataFrame({
            "eval_set": name, "kind": "task" if name == "hellaswag" else "validation",
            "step": step, "tokens": tokens, "flops": 6 * tokens * float(facts["params"]),
            "loss": share * y,
            "bits_per_byte": bytes_too * y / math.log(2) / BYTES_PER_TOKEN["bpe"],
        })
        for name, y in rows.items()
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True).assign(**facts, status="ok", source="planted")


# --- the designs -------------------------------------------------------------------------------

ARCHITECTURES, DATA, SIZES = ("llama", "mamba"), ("wiki", "python"), (1e8, 4e8)
FACTORIAL = grid(architecture=ARCHITECTURES, pretraining_data=DATA, params=SIZES)
TWO_SEEDS = grid(2, architecture=ARCHITECTURES, pretraining_data=DATA, params=SIZES)
FOUR_SEEDS = grid(4, architecture=ARCHITECTURES, pretraining_data=DATA, params=SIZES)
FOUR_SIZES, FOUR_DATA = (1e8, 4e8, 16e8, 64e8), ("wiki", "python", "law", "news")
FOUR_BY_FOUR = grid(architecture=ARCHITECTURES, pretraining_data=FOUR_DATA, params=FOUR_SIZES)
RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)


def mamba(facts: Facts) -> bool:
    """Return whether a run is a Mamba."""
    return facts["architecture"] == "mamba"


def python(facts: Facts) -> bool:
    """Return whether a run was trained on python."""
    return facts["pretraining_data"] == "python"


def sign(facts: Facts) -> int:
    """Return the sign of an interaction of data and size, which no single factor describes."""
    data, size = FOUR_DATA.index(facts["pretraining_data"]), FOUR_SIZES.index(facts["params"])
    return (-1) ** (data + size)


def log_rate(facts: Facts) -> float:
    """Return the base-2 logarithm of the learning rate: -2 to 2 over ``RATES``."""
    return math.log2(float(facts["learning_rate"]) / RATES[2])


def by_level(**moves: Mapping[object, float]) -> Effect:
    """Return the effect that adds a number of nats to each level of one factor."""
    ((factor, levels),) = moves.items()
    return lambda facts: levels.get(facts[factor], 0.0)


def _few_noisy(few: int, many: int, times: float) -> dict[str, object]:
    runs = [*grid(many), *grid(few, architecture=("mamba",))]
    return {"runs": runs, "scale": lambda facts: times if mamba(facts) else 1.0}


CLEAN = {"factor": "architecture", "truth": "nothing"}
DESIGNS: dict[str, PlantedStudy] = {
    # Nothing moves.
    "factorial, 8 runs": PlantedStudy(about="2×2×2, one seed", runs=FACTORIAL, **CLEAN),
    "factorial, 16 runs": PlantedStudy(about="2×2×2, two seeds", runs=TWO_SEEDS, **CLEAN),
    "factorial, 32 quiet runs": PlantedStudy(
        about="2×2×2, four seeds, noise .01", runs=FOUR_SEEDS, noise=0.01, **CLEAN
    ),
    "heavy tails": PlantedStudy(about="Student's t3", runs=TWO_SEEDS, tails=3, **CLEAN),
    "bend, shifted ranges": PlantedStudy(
        about="κ = .5, mamba .4 further on",
        runs=TWO_SEEDS,
        bend=0.5,
        checkpoints=12,
        shift=lambda facts: 0.4 * mamba(facts),
        **CLEAN,
    ),
    "2 noisy (×2) and 8 quiet": PlantedStudy(
        about="noise of the two doubled", **_few_noisy(2, 8, 2.0), **CLEAN
    ),
    "3 noisy (×2) and 12 quiet": PlantedStudy(
        about="noise of the three doubled", **_few_noisy(3, 12, 2.0), **CLEAN
    ),
    "2 noisy (×4) and 2 levels of 4": PlantedStudy(
        about="three levels",
        factor="pretraining_data",
        truth="nothing",
        runs=[*grid(4, pretraining_data=DATA), *grid(2, pretraining_data=("law",))],
        scale=lambda facts: 4.0 if facts["pretraining_data"] == "law" else 1.0,
    ),
    "1 and 1 (×2), noise borrowed": PlantedStudy(
        about="beside 8 quiet runs",
        factor="optimizer",
        truth="nothing",
        runs=[*FACTORIAL, *grid(params=(4e9,), optimizer=("adamw", "lion"))],
        scale=lambda facts: 2.0 if facts["params"] == 4e9 else 1.0,
    ),
    "1 and 1, noise borrowed": PlantedStudy(
        about="beside 8 runs of the same noise",
        factor="optimizer",
        truth="nothing",
        runs=[*FACTORIAL, *grid(params=(4e9,), optimizer=("adamw", "lion"))],
    ),
    "every run twice": PlantedStudy(about="copies", runs=FACTORIAL, copies=True, **CLEAN),
    "transient at the start": PlantedStudy(
        about="first checkpoints .2 off", runs=TWO_SEEDS, start=0.2, **CLEAN
    ),
    "one run off, nothing moves": PlantedStudy(about="by .5", runs=TWO_SEEDS, outlier=0.5, **CLEAN),
    "learning rates, nothing moves": PlantedStudy(
        about="five levels",
        factor="learning_rate",
        truth="nothing",
        runs=grid(2, learning_rate=RATES, architecture=ARCHITECTURES),
    ),
    "three levels, nothing moves": PlantedStudy(
        about="3 data × 2 sizes × 2 seeds",
        factor="pretraining_data",
        truth="nothing",
        runs=grid(2, pretraining_data=(*DATA, "law"), params=SIZES),
    ),
    # Something moves.
    "architecture .1": PlantedStudy(
        about="3.3 times the noise",
        factor="architecture",
        truth="moves",
        runs=TWO_SEEDS,
        effect=lambda facts: 0.1 * mamba(facts),
    ),
    "architecture .1, data .4": PlantedStudy(
        about="beside a larger effect",
        factor="architecture",
        truth="moves",
        runs=TWO_SEEDS,
        effect=lambda facts: 0.1 * mamba(facts) + 0.4 * python(facts),
    ),
    "architecture .1, one run off": PlantedStudy(
        about="3.3 times the noise, and a run .5 off",
        factor="architecture",
        truth="moves",
        runs=TWO_SEEDS,
        effect=lambda facts: 0.1 * mamba(facts),
        outlier=0.5,
    ),
    "architecture .03, data .4": PlantedStudy(
        about="small, noise .005",
        factor="architecture",
        truth="small",
        runs=TWO_SEEDS,
        effect=lambda facts: 0.03 * mamba(facts) + 0.4 * python(facts),
        noise=0.005,
    ),
    "crossed: +.15 and −.15": PlantedStudy(
        about="by data, noise .01",
        factor="architecture",
        truth="by group",
        runs=TWO_SEEDS,
        effect=lambda facts: 0.15 * mamba(facts) * (1 if python(facts) else -1),
        noise=0.01,
    ),
    "crossed: +.15 and −.15, data .4": PlantedStudy(
        about="noise .01",
        factor="architecture",
        truth="by group",
        runs=TWO_SEEDS,
        noise=0.01,
        effect=lambda facts: (
            0.15 * mamba(facts) * (1 if python(facts) else -1) + 0.4 * python(facts)
        ),
    ),
    "crossed, 8 runs": PlantedStudy(
        about="±.15, one seed, noise .01",
        factor="architecture",
        truth="by group",
        runs=FACTORIAL,
        effect=lambda facts: 0.15 * mamba(facts) * (1 if python(facts) else -1),
        noise=0.01,
    ),
    "on python alone: .15": PlantedStudy(
        about="noise .01",
        factor="architecture",
        truth="by group",
        runs=TWO_SEEDS,
        noise=0.01,
        effect=lambda facts: 0.15 * mamba(facts) * python(facts),
    ),
    "on python alone: .15, noise .03": PlantedStudy(
        about="four seeds",
        factor="architecture",
        truth="by group",
        runs=FOUR_SEEDS,
        effect=lambda facts: 0.15 * mamba(facts) * python(facts),
    ),
    "crossed three ways: ±.08": PlantedStudy(
        about="architecture × data × size, one seed, noise .01",
        factor="architecture",
        truth="by group",
        runs=FOUR_BY_FOUR,
        noise=0.01,
        effect=lambda facts: 0.08 * mamba(facts) * sign(facts),
    ),
    "sizes alternate: ±.08": PlantedStudy(
        about="four sizes × four data, noise .01",
        factor="architecture",
        truth="by group",
        runs=FOUR_BY_FOUR,
        noise=0.01,
        effect=lambda facts: 0.08 * mamba(facts) * (-1) ** FOUR_SIZES.index(facts["params"]),
    ),
    "U of five learning rates": PlantedStudy(
        about="±.1, noise .03",
        factor="learning_rate",
        truth="moves",
        runs=grid(2, learning_rate=RATES, architecture=ARCHITECTURES),
        effect=lambda facts: 0.05 * (log_rate(facts) ** 2 - 2.0),
    ),
    "one of five learning rates off": PlantedStudy(
        about="the second, .15",
        factor="learning_rate",
        truth="moves",
        runs=grid(2, learning_rate=RATES, architecture=ARCHITECTURES),
        effect=by_level(learning_rate={RATES[1]: 0.15}),
    ),
    "trend of five learning rates": PlantedStudy(
        about=".2 from end to end",
        factor="learning_rate",
        truth="moves",
        runs=grid(2, learning_rate=RATES, architecture=ARCHITECTURES),
        effect=lambda facts: 0.05 * log_rate(facts),
    ),
    "one of three levels": PlantedStudy(
        about=".1, noise .02",
        factor="pretraining_data",
        truth="moves",
        noise=0.02,
        runs=grid(2, pretraining_data=(*DATA, "law"), params=SIZES),
        effect=by_level(pretraining_data={"law": 0.1}),
    ),
    "rare optimizer, 4 of 36 runs": PlantedStudy(
        about=".12, noise .01, data .8",
        factor="optimizer",
        truth="moves",
        noise=0.01,
        runs=[*FOUR_SEEDS, *grid(2, params=SIZES, optimizer=("lion",))],
        effect=lambda facts: 0.8 * python(facts) + 0.12 * (facts["optimizer"] == "lion"),
    ),
    "2 noisy (×2) and 8 quiet, .3": PlantedStudy(
        about="10 times the noise",
        factor="architecture",
        truth="moves",
        effect=lambda facts: 0.3 * mamba(facts),
        **_few_noisy(2, 8, 2.0),
    ),
    "1 and 1, .5, noise borrowed": PlantedStudy(
        about="17 times the noise",
        factor="optimizer",
        truth="moves",
        runs=[*FACTORIAL, *grid(params=(4e9,), optimizer=("adamw", "lion"))],
        effect=lambda facts: 0.5 * (facts["optimizer"] == "lion"),
    ),
    "tokenizer, not per byte": PlantedStudy(
        about="noise .01",
        factor="tokenizer",
        truth="per token",
        noise=0.01,
        runs=grid(2, tokenizer=("bpe", "unigram"), architecture=ARCHITECTURES, params=SIZES),
    ),
    "tokenizer, per byte too": PlantedStudy(
        about=".11 nats = .04 bits per byte, noise .03",
        factor="tokenizer",
        truth="moves",
        runs=grid(2, tokenizer=("bpe", "unigram"), architecture=ARCHITECTURES, params=SIZES),
        per_byte=lambda facts: 0.11 * (facts["tokenizer"] == "unigram"),
    ),
}
