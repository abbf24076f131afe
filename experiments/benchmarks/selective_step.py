"""Measure the cost of a selective training step against the plain step.

    python experiments/benchmarks/selective_step.py

A Llama of 3M parameters, 16 × 128 tokens, on one CPU device: excess loss at shares 0.4 to 1, ranked
over the batch, each microbatch or each row, and tokens chosen over the corpus; one and four
microbatches. Every step is compiled first. Each round runs every step once, one after the other, so
that other work on the machine slows all of them; ratios are taken within a round, to the plain step
with the same number of microbatches. Operations are those of the matrix products of the traced
step. The script prints a table and writes selective_step.json next to this file. `--small` runs the
same code in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from fit_speed import environment

from lossline.compilation.flops import matmul_flops
from lossline.models import LlamaConfig
from lossline.objectives.options import Scope, Score
from lossline.objectives.plain import PlainLoss
from lossline.objectives.selective import SelectiveLoss
from lossline.sharding import MeshOptions, batch_sharding, make_mesh, make_rules
from lossline.training.optimizer import AdamW
from lossline.training.step import Trainer

RATES = np.asarray([1e-3, 0.1], np.float32)  # learning rate, weight decay
SHARES = ("0.4", "0.6", "0.8", "1")


@dataclass(frozen=True, kw_only=True)
class Size:
    """Size of the model and of the batch."""

    vocabulary: int = 8192
    width: int = 128
    layers: int = 4
    length: int = 128
    rows: int = 16


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of step. Without a score it is the plain step."""

    microbatches: int
    score: Score | None = None
    scope: Scope = Scope.BATCH
    share: str = "1"

    @property
    def name(self) -> str:
        """Name in the table."""
        if self.score is None:
            return "plain"
        ranked = self.scope.value if self.score.needs_current_model else "corpus"
        return f"{self.score.words}, {ranked}, {float(self.share):.0%}"


def cases() -> list[Case]:
    """Return all steps that are measured, the plain one first for each number of microbatches."""
    found = []
    for microbatches in (1, 4):
        found.append(Case(microbatches=microbatches))
        ranked = [(Score.EXCESS_LOSS, Scope.BATCH, share) for share in SHARES]
        ranked += [
            (Score.EXCESS_LOSS, scope, "0.6") for scope in (Scope.MICROBATCH, Scope.SEQUENCE)
        ]
        ranked += [(Score.RANDOM, Scope.BATCH, "0.6")]
        found += [
            Case(microbatches=microbatches, score=score, scope=scope, share=share)
            for score, scope, share in ranked
        ]
    return found


class Step:
    """A compiled step with its state and one batch."""

    def __init__(self, case: Case, size: Size) -> None:
        self.case = case
        self._trainer = make_trainer(case, size)
        self._state = self._trainer.init(jax.random.key(0))
        self._batch = jax.device_put(batch_of(case, size), batch_sharding(self._trainer.mesh))
        with jax.set_mesh(self._trainer.mesh):
            traced = self._trainer.step.trace(self._state, self._batch, RATES)  # type: ignore[attr-defined]
        self.flops = matmul_flops(traced.jaxpr)

    def run(self) -> float:
        """Run one step and return its seconds."""
        started = time.perf_counter()
        with jax.set_mesh(self._trainer.mesh):
            self._state, metrics = self._trainer.step(self._state, self._batch, RATES)
        jax.block_until_ready((self._state, metrics))
        return time.perf_counter() - started


def make_trainer(case: Case, size: Size) -> Trainer:
    """Return the trainer of a case on one device."""
    common: dict[str, Any] = {"vocab_size": size.vocabulary, "z_loss": 1e-4}
    objective: PlainLoss | SelectiveLoss = PlainLoss(**common)
    if case.score is not None:
        objective = SelectiveLoss(
            share=Fraction(case.share), score=case.score, scope=case.scope, one_device=True,
            **common,
        )  # fmt: skip
    model = LlamaConfig(
        vocab_size=size.vocabulary,
        width=size.width,
        layers=size.layers,
        heads=4,
        kv_heads=4,
        mlp_width=3 * size.width,
        context_length=size.length,
        activation_dtype="float32",
    )
    return Trainer(
        model=model,
        objective=objective,
        optimizer=AdamW(),
        mesh=make_mesh(MeshOptions(data=1), devices=jax.devices()[:1]),
        rules=make_rules(),
        microbatches=case.microbatches,
    )


def batch_of(case: Case, size: Size) -> dict[str, np.ndarray]:
    """Return random tokens, with what the objective needs."""
    rng = np.random.default_rng(0)
    shape = (size.rows, size.length)
    tokens = rng.integers(0, size.vocabulary, (size.rows, size.length + 1), np.int32)
    batch = {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": np.ones(shape, np.float32),
    }
    if case.score is Score.EXCESS_LOSS:
        batch["reference"] = rng.normal(8, 1, shape).astype(np.float16)
    if case.score is Score.RANDOM:
        batch["selected"] = rng.random(shape) < float(case.share)
    return batch


def measure(steps: list[Step], rounds: int) -> list[dict[str, object]]:
    """Return one row per step: seconds, and time and operations as ratios to the plain step."""
    seconds: list[list[float]] = [[] for _ in steps]
    for number in range(rounds + 1):
        for step, taken in zip(steps, seconds, strict=True):
            took = step.run()
            if number:  # the first round compiles
                taken.append(took)
    plain = {
        step.case.microbatches: (step.flops, taken)
        for step, taken in zip(steps, seconds, strict=True)
        if step.case.score is None
    }
    rows: list[dict[str, object]] = []
    for step, taken in zip(steps, seconds, strict=True):
        flops, base = plain[step.case.microbatches]
        ratios = sorted(ours / theirs for ours, theirs in zip(taken, base, strict=True))
        rows.append(
            {
                "step": step.case.name,
                "microbatches": step.case.microbatches,
                "median_seconds": statistics.median(taken),
                "best_seconds": min(taken),
                "times_plain": statistics.median(ratios),
                "times_plain_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
                "best_times_plain": min(taken) / min(base),
                "flops_times_plain": step.flops / flops,
            }
        )
    return rows


def main() -> None:
    """Measure all steps, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--small", action="store_true", help="a tiny model")
    options = parser.parse_args()
    tiny = Size(vocabulary=512, width=32, layers=1, length=32, rows=8)
    size = tiny if options.small else Size()
    rows = measure([Step(case, size) for case in cases()], options.rounds)
    print(f"{'step':32}{'M':>3}{'best ms':>10}{'median ms':>11}{'x plain':>9}{'operations':>12}")
    for row in rows:
        print(
            f"{row['step']:32}{row['microbatches']:3}{1e3 * row['best_seconds']:10.1f}"
            f"{1e3 * row['median_seconds']:11.1f}{row['times_plain']:9.3f}"
            f"{row['flops_times_plain']:12.3f}"
        )
    record = {
        "environment": environment() | {"jax": jax.__version__},
        "size": vars(size),
        "rounds": options.rounds,
        "steps": rows,
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
