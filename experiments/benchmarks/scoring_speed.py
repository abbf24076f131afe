"""Measure the speed of ``lossline.score`` against ``lossline.evaluate`` on the same pages.

    python experiments/benchmarks/scoring_speed.py

A pool of 40 domains × 16 pages of random words (bytes as tokens, log-normal lengths from 20 to
4,000), and two Llamas of 0.4M parameters with a context of 256 tokens. Contenders:

- score: all pages, a row per domain;
- evaluate, one set: all pages as one token store, a row in all;
- evaluate, a set per domain: the same rows as score, but no two domains share a row of tokens.

Everything of a call counts (checkpoints, packing, tables), except compilation: a first round warms
up. Rounds are interleaved; rates are of CPU seconds, which other work on the machine changes least,
and of the best round. The script prints a table and writes scoring_speed.json next to this file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lossline import models, tables
from lossline.corpora.pools import Pool
from lossline.corpora.sources import Subset
from lossline.evaluation.documents import Documents, Layout
from lossline.evaluation.evaluator import EvaluateOptions, evaluate
from lossline.evaluation.sets import EvaluationSet
from lossline.evaluation.windows import WindowRule
from lossline.files import write_json
from lossline.runs.checkpoints import CheckpointWriter
from lossline.runs.run_directory import RunDirectory, RunState, RunStatus
from lossline.scoring.score_pool import ScoreOptions, score
from lossline.stores.jobs import text_job
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.tables import scores
from lossline.vocabularies import ByteVocabulary

DOMAINS, PAGES, CONTEXT, BATCH = 40, 16, 256, 16
CONFIG = models.LlamaConfig(
    vocab_size=259, vocab_multiple=8, width=96, layers=4, heads=4, mlp_width=192,
    context_length=CONTEXT,
)  # fmt: skip
CONTENDERS = ("score", "evaluate, one set", "evaluate, a set per domain")


def make_pool(folder: Path, seed: int = 0) -> Pool:
    """Write pages of random words; returns their pool."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghij"), n)) for n in rng.integers(2, 9, 500)]
    lines = []
    for number in range(DOMAINS):
        for _ in range(8 * PAGES):
            length = int(np.clip(rng.lognormal(5.7, 0.9), 20, 4000))
            text = " ".join(rng.choice(words, length // 4 + 4))[:length]
            lines.append(json.dumps({"domain": f"domain-{number:02d}", "text": text}))
    (folder / "pages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Pool(files=(str(folder / "pages.jsonl"),), scored_pages=PAGES, validation_share=0.4)


def make_stores(folder: Path, pool: Pool) -> None:
    """Write a store of all pages, as prepare would, and one store per domain."""
    vocabulary, pages = ByteVocabulary(), list(pool.scored())
    job = text_job(pool, "scored", Subset(), vocabulary.hash)
    write_store(folder / "pool", [page.text for page in pages], vocabulary, job=job)
    for name in pool.names():
        texts = [page.text for page in pages if page.domain == name]
        write_store(folder / name, texts, vocabulary, name=name)


def make_run(path: Path, seed: int, config: models.LlamaConfig = CONFIG) -> None:
    """Make a run directory with one checkpoint of random parameters."""
    path.mkdir(parents=True)
    run, counts, vocabulary = RunDirectory(path), config.num_params(), ByteVocabulary()
    facts = {
        "run_id": path.name, "architecture": config.family, "pretraining_data": "random",
        "tokenizer": vocabulary.name, "context_length": CONTEXT, "params": counts.total,
        "params_non_embedding": counts.non_embedding, "seed": seed, "source": "lossline",
        "tokens_per_step": 64, "flops_per_token": config.flops_per_token(CONTEXT),
        "vocabulary_hash": vocabulary.hash,
    }  # fmt: skip
    write_json(path / "facts.json", facts)
    write_json(path / "config.json", {"__class__": "TrainOptions", "model": config.to_dict()})
    rng = np.random.default_rng(seed)
    shapes = nnx.to_pure_dict(models.abstract_state(config)[1])
    params = jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.05, p.shape), p.dtype), shapes)
    writer = CheckpointWriter(run, data="random")
    writer.save(1, {"params": params, "optimizer": {}}, kept=True)
    writer.close()
    run.write_status(RunStatus(state=RunState.FINISHED, step=1))


def work_of(folder: Path, names: Sequence[str]) -> dict[str, float]:
    """Return the tokens that each contender computes for one model, and its padding."""
    rule = WindowRule(context=CONTEXT, stride=CONTEXT // 2)

    def packed(name: str):
        store = TokenStore.open(folder / name)
        return Documents(store, rule=rule).packed(Layout(batch_size=BATCH))

    whole, parts = packed("pool"), [packed(name) for name in names]
    cells = sum(part.num_cells for part in parts)
    return {
        "tokens": whole.num_tokens,
        "padding of one set": 1 - whole.num_tokens / whole.num_cells,
        "padding of a set per domain": 1 - whole.num_tokens / cells,
    }


def contenders(folder: Path, pool: Pool) -> dict[str, Callable[[], str]]:
    """Return each contender as a call that starts anew and returns what it printed."""
    shared = {"runs": (str(folder / "runs"),), "batch_size": BATCH, "compilation_cache": "off"}

    def scoring() -> str:
        shutil.rmtree(folder / "out", ignore_errors=True)
        store, out = str(folder / "stores" / "pool"), str(folder / "out")
        return printed(lambda: score(ScoreOptions(pool=pool, store=store, out=out, **shared)))

    def evaluating(names: Sequence[str]) -> Callable[[], str]:
        sets = tuple(EvaluationSet(name=n, path=str(folder / "stores" / n)) for n in names)

        def call() -> str:
            for file in (folder / "runs").glob("*/losses.parquet"):
                file.unlink()
            return printed(lambda: evaluate(EvaluateOptions(sets=sets, **shared)))

        return call

    calls = (scoring, evaluating(["pool"]), evaluating(pool.names()))
    return dict(zip(CONTENDERS, calls, strict=True))


def printed(call: Callable[[], object]) -> str:
    """Return what a call prints."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        call()
    return output.getvalue()


def largest_difference(folder: Path) -> float:
    """Return the largest relative difference of nats between score and evaluate, per domain."""
    ours = scores.read(folder / "out" / "scores.parquet").set_index(["model", "name"])["nats"]
    theirs = tables.load(folder / "runs").set_index(["run_id", "eval_set"])["nats"]
    theirs = theirs.reindex(ours.index)
    return float((ours / theirs - 1).abs().max())


def cpu_name() -> str:
    """Return the model of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def main() -> None:
    """Run the rounds, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pool = make_pool(folder)
        make_stores(folder / "stores", pool)
        for seed in range(arguments.models):
            make_run(folder / "runs" / f"m{seed}", seed)
        work = work_of(folder / "stores", pool.names())
        calls = contenders(folder, pool)
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(arguments.rounds + 1):
            for name, call in calls.items():
                started, busy = time.perf_counter(), time.process_time()
                said = call()
                if number:
                    seconds[name].append(round(time.perf_counter() - started, 3))
                    cpu_seconds[name].append(round(time.process_time() - busy, 3))
                if name == "score":
                    padding = float(said.strip().rpartition("padding ")[2].rstrip("%")) / 100
            print(f"round {number} of {arguments.rounds}", flush=True)
        difference = largest_difference(folder)
    tokens = work["tokens"] * arguments.models
    rates = {name: tokens / min(found) for name, found in cpu_seconds.items()}
    paddings = (padding, work["padding of one set"], work["padding of a set per domain"])
    for (name, rate), share in zip(rates.items(), paddings, strict=True):
        relative = rate / rates["evaluate, one set"]
        print(f"{name:28s} {rate:10,.0f} tokens/CPU s {relative:6.2f}  padding {share:.1%}")
    print(f"largest relative difference of nats: {difference:.1e}")
    result = {
        "command": f"python experiments/benchmarks/scoring_speed.py --rounds {arguments.rounds}",
        "environment": {
            "cpu": cpu_name(), "cores": os.cpu_count(),
            "load_at_start": round(load, 2), "python": platform.python_version(),
            "jax": jax.__version__,
        },
        "models": arguments.models,
        "parameters": CONFIG.num_params().total,
        "tokens_per_model": work["tokens"],
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "tokens_per_cpu_second": {name: round(rate) for name, rate in rates.items()},
        "relative_to_evaluate": round(rates["score"] / rates["evaluate, one set"], 3),
        "padding": {n: round(p, 4) for n, p in zip(rates, paddings, strict=True)},
        "largest_relative_difference": difference,
    }  # fmt: skip
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
