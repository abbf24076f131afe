"""Perplexity correlations (arXiv 2409.05816): published number, the procedure re-run, ours.

    python experiments/published/correlate.py --data DIR --out DIR2

``DIR`` holds perplexity_correlations_bpb.csv and perplexity_correlations_error.csv: 90 public
models, bits per byte of 263 documents, and the scores of 9 benchmarks. Nothing is trained. "Re-run"
is the released package's procedure, written out in NumPy, ties broken by position as it does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import runner
from records import Comparison, Section

from lossline.errors import UserError
from lossline.selection import ScoreMatrix, correlate, estimate, heldout_ranks, score_matrix
from lossline.selection.heldout import PUBLISHED
from lossline.tables.sweeps import import_sweep

Array = np.ndarray

FILES = ("perplexity_correlations_bpb.csv", "perplexity_correlations_error.csv")
RESULTS = "perplexity_correlations_results.csv"
# Published: smallest, median and largest Spearman correlation over the documents.
SPREADS = {
    "arc_easy": "0.966 0.976 0.981",
    "piqa": "0.954 0.964 0.973",
    "sciq": "0.908 0.925 0.934",
    "lambada_openai": "0.931 0.954 0.975",
    "lambada_openai_mt_de": "0.820 0.847 0.889",
    "lambada_openai_mt_es": "0.807 0.835 0.873",
    "lambada_openai_mt_fr": "0.842 0.865 0.898",
    "lambada_openai_mt_it": "0.845 0.871 0.910",
}
# Published: Spearman correlation of predicted and measured order, five folds, one split.
HELDOUT = {"arc_easy": 0.971, "piqa": 0.967, "sciq": 0.919, "lambada_openai": 0.967}
SPLITS = 20
# A largest weight of 0.1 selects 10 documents, one of 10/263 selects 27.
CAPS = {"0.1": 0.1, "10/263": None}
FOLDS = ("models", "families")


def sections(folder: Path) -> Iterator[Section]:
    """Yield the coefficients, their intervals, and the predictions of left-out models."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UserError(f"{folder / missing[0]}: not there. README.md names its source.")
    imported = import_sweep("perplexity_correlations", [folder / name for name in FILES])
    matrix = score_matrix(imported.table)
    yield coefficients(matrix, [*imported.notes, *matrix.notes()])
    yield certainty(matrix)
    yield predictions(matrix)


def coefficients(matrix: ScoreMatrix, notes: list[str]) -> Section:
    """Return the spread of the coefficients over the documents."""
    ours = estimate(matrix.losses, matrix.errors, "spearmanr")
    rows, table = [], {}
    for name in matrix.benchmarks:
        column = matrix.benchmark(name)
        table[name] = ours[:, column]
        if name in SPREADS:
            rerun = spearman_by_position(matrix.losses, matrix.errors[:, column])
            rows.append(
                Comparison(
                    what=f"{name}: smallest, median, largest coefficient",
                    published=SPREADS[name],
                    rerun=spread(rerun),
                    ours=spread(ours[:, column]),
                )
            )
    frame = pd.DataFrame(table, index=pd.Index(matrix.domains, name="document")).reset_index()
    return Section(
        title="Perplexity correlations: Spearman coefficients of 263 documents",
        rows=rows,
        notes=notes,
        tables={"perplexity_correlations_coefficients": frame},
    )


def certainty(matrix: ScoreMatrix) -> Section:
    """Return what is known of the coefficients beyond their value: nothing was published."""
    found = correlate(matrix)
    rows = []
    for name in matrix.benchmarks:
        part = found.of(name)
        chosen = part[part["weight"] > 0]
        rows.append(
            Comparison(
                what=name,
                ours=f"width of the 90% interval {(part['high'] - part['low']).median():.3f}; "
                f"significant {part['significant'].sum()} of {len(part)}; the {len(chosen)} "
                f"selected are in {chosen['selected'].mean():.0%} of the resamples",
            )
        )
    return Section(
        title=f"Perplexity correlations: {found.families} families of models resampled",
        rows=rows,
        notes=found.notes,
        tables={"perplexity_correlations_certainty": found.table},
    )


def predictions(matrix: ScoreMatrix) -> Section:
    """Return how well the order of left-out models is predicted."""
    known = [name for name in HELDOUT if name in matrix.benchmarks]
    columns = [matrix.benchmark(name) for name in known]
    matrix = ScoreMatrix(
        models=matrix.models, families=matrix.families, domains=matrix.domains,
        benchmarks=tuple(known), losses=matrix.losses, errors=matrix.errors[:, columns],
        measures=tuple(matrix.measures[column] for column in columns),
    )  # fmt: skip
    rows, tables = [], []
    for folds in FOLDS:
        for cap, weight in CAPS.items():
            limits = None if weight is None else np.full(len(matrix.domains), weight)
            options = {"limits": limits, "folds": folds, "splits": SPLITS}
            rerun = heldout_ranks(matrix, methods=(PUBLISHED,), **options)
            ours = heldout_ranks(matrix, **options)
            tables += [rerun.assign(cap=cap), ours.assign(cap=cap)]
            rows += compared(rerun, ours, f"{folds} left out, largest weight {cap}", folds, cap)
    frame = pd.concat(tables, ignore_index=True)
    return Section(
        title=f"Perplexity correlations: order of left-out models, mean of {SPLITS} splits",
        rows=rows,
        notes=["The mean loss of all documents, unweighted, is the method 'mean loss'."],
        tables={"perplexity_correlations_heldout": frame},
    )


def compared(
    rerun: pd.DataFrame, ours: pd.DataFrame, how: str, folds: str, cap: str
) -> list[Comparison]:
    """Return a row per benchmark, and their mean."""
    published = HELDOUT if folds == "models" and cap == "0.1" else {}

    def row(name: str, printed: float | None, *values: float) -> Comparison:
        texts = [f"{value:.4f}" for value in values]
        return Comparison(
            what=f"{how}: {name}",
            published=f"{printed:.3f}" if printed else "",
            methods={"sign re-run": texts[0], "mean loss": texts[1]},
            ours=texts[2],
        )

    parts = [rerun["spearman"], rerun["mean_loss"], ours["spearman"]]
    rows = [
        row(name, published.get(name), *(part.iloc[place] for part in parts))
        for place, name in enumerate(rerun["benchmark"])
    ]
    mean = float(np.mean(list(published.values()))) if published else None
    return [*rows, row("mean", mean, *(part.mean() for part in parts))]


def spearman_by_position(losses: Array, errors: Array) -> Array:
    """Return the package's Spearman coefficients (D,): ties are ranked by position."""
    models = len(losses)
    ranks, of_errors = (np.argsort(np.argsort(v, axis=0), axis=0) for v in (losses, errors))
    squares = ((of_errors[:, None] - ranks) ** 2).sum(axis=0)
    return 1 - 6 * squares / (models * (models**2 - 1))


def spread(values: Array) -> str:
    """Return the smallest, the median and the largest value."""
    return " ".join(f"{v:.3f}" for v in (values.min(), np.median(values), values.max()))


def run(data: Path, out: Path) -> list[str]:
    """Run all sections. Return the files on which this program failed."""
    sources = {FILES[0]: sections}
    present = runner.present(sources, data)
    files = runner.opened(out, "correlate")
    records, broken = [], []
    for found in runner.found_in(sources, present, data):
        records += runner.report(found, files)
        broken += [found.name] if found.failure else []
    runner.finish(files, pd.DataFrame(records).fillna(""), RESULTS)
    return broken


if __name__ == "__main__":
    sys.exit(runner.main("correlate", __doc__, run))
