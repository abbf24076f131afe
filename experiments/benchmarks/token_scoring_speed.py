"""Measure the speed of ``lossline.score --tokens`` against ``lossline.evaluate`` on one store.

    python experiments/benchmarks/token_scoring_speed.py

A store of pages of random words (bytes as tokens, log-normal lengths from 20 to 4,000), and Llamas
of four layers and width 96 with a context of 256 tokens, whose vocabularies have 259 and 8,192 ids:
in the second, the unembedding is most of the work. Contenders:

- evaluate: the pages as one set; the windows of a long page overlap by half, and only tokens that
  are not scored yet are multiplied by the unembedding;
- evaluate, no overlap: every position is scored, as in scoring a store;
- score --tokens: the nats of every token, or nats and entropy.

Everything of a call counts (checkpoint, reading, files), except compilation: a first round warms
up. Rounds are interleaved; rates are tokens computed per CPU second, of the best round. The script
prints a table and writes token_scoring_speed.json next to this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
from scoring_speed import BATCH, CONFIG, CONTEXT, cpu_name, make_pool, make_run, printed

from lossline.evaluation.documents import Documents, Layout
from lossline.evaluation.evaluator import EvaluateOptions, evaluate
from lossline.evaluation.sets import EvaluationSet
from lossline.evaluation.windows import WindowRule
from lossline.files import write_json
from lossline.scoring.token_scoring import TokenScoreOptions, score_tokens
from lossline.stores.store_writer import write_store
from lossline.stores.token_scores import ReferenceScore
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary

VOCABULARIES = (259, 8192)
STRIDES = {"evaluate": CONTEXT // 2, "evaluate, no overlap": CONTEXT}
QUANTITIES = {
    "score --tokens, nats": (ReferenceScore.NATS,),
    "score --tokens, nats and entropy": tuple(ReferenceScore),
}


def contenders(run: Path, store: TokenStore, out: Path) -> dict[str, Callable[[], object]]:
    """Return each contender as a call that starts anew."""

    def evaluating(stride: int) -> Callable[[], object]:
        options = EvaluateOptions(
            runs=(str(run),), sets=(EvaluationSet(name="web", path=store.location),),
            stride=stride, batch_size=BATCH, compilation_cache="off",
        )  # fmt: skip

        def call() -> None:
            (run / "losses.parquet").unlink(missing_ok=True)
            evaluate(options)

        return call

    def scoring(quantities: tuple[ReferenceScore, ...]) -> Callable[[], object]:
        options = TokenScoreOptions(
            run=str(run), stores=(store.location,), quantities=quantities, batch_size=BATCH,
            out=str(out), compilation_cache="off",
        )  # fmt: skip

        def call() -> None:
            shutil.rmtree(out, ignore_errors=True)
            score_tokens(options)

        return call

    return {name: evaluating(stride) for name, stride in STRIDES.items()} | {
        name: scoring(quantities) for name, quantities in QUANTITIES.items()
    }


def computed_tokens(store: TokenStore) -> dict[str, int]:
    """Return the tokens that each contender computes."""
    layout = Layout(batch_size=BATCH)
    rules = {name: WindowRule(context=CONTEXT, stride=stride) for name, stride in STRIDES.items()}
    evaluated = {
        name: Documents(store, rule=rule).packed(layout).num_tokens for name, rule in rules.items()
    }
    return evaluated | dict.fromkeys(QUANTITIES, store.num_tokens // CONTEXT * CONTEXT)


def measured(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each contender in each round after the first."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            busy = time.process_time()
            printed(call)
            if number:
                seconds[name].append(round(time.process_time() - busy, 3))
        print(f"round {number} of {rounds}", flush=True)
    return seconds


def main() -> None:
    """Run the rounds, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    load, results = os.getloadavg()[0], {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = [page.text for page in make_pool(folder).scored()][::4]
        store = write_store(folder / "store", texts, ByteVocabulary(), name="web")
        tokens = computed_tokens(store)
        for vocabulary in VOCABULARIES:
            run = folder / "runs" / f"v{vocabulary}"
            make_run(run, 0, replace(CONFIG, vocab_size=vocabulary))
            seconds = measured(contenders(run, store, folder / "out"), arguments.rounds)
            rates = {name: tokens[name] / min(found) for name, found in seconds.items()}
            relative = {name: rate / rates["evaluate"] for name, rate in rates.items()}
            for name, rate in rates.items():
                print(f"{vocabulary:6d} {name:34s} {rate:9,.0f} tokens/CPU s {relative[name]:6.2f}")
            results[str(vocabulary)] = {
                "cpu_seconds": seconds,
                "tokens_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
                "relative_to_evaluate": {name: round(r, 3) for name, r in relative.items()},
            }
    write_json(
        arguments.out,
        {
            "command": "python experiments/benchmarks/token_scoring_speed.py --rounds "
            f"{arguments.rounds}",
            "environment": {
                "cpu": cpu_name(), "cores": os.cpu_count(), "load_at_start": round(load, 2),
                "python": platform.python_version(), "jax": jax.__version__,
            },
            "tokens": tokens,
            "vocabularies": results,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
