"""Predict scores of large models from small ones: published number, methods re-run, ours.

    python experiments/published/predict.py --data published_data --out runs/predicted

Reads those of olmo_ladder.csv, gadre_models.csv (with gadre_task_baselines.csv for the accuracy of
guessing), public_models_benchmarks.csv, mixtures_slimpajama.csv, regmix_* and olmix_* that are in
the folder (README.md names their sources); they may have more rows. Each section's file says which
models are held out. Prints one table per source, and how often intervals hold the measurement.
Writes predict_results.csv, and every single prediction as a table per source. Files of an earlier
run in the folder are removed first; files of the user stay. Two files are read at a time.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

# One BLAS thread: the matrices are small, and more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
import predict_gadre
import predict_ladder
import predict_public
import predict_slimpajama
import predict_swarms
import runner
from interval_coverage import coverage

SOURCES: dict[str, runner.Sections] = {
    "gadre_models.csv": predict_gadre.sections,  # takes the longest
    "olmo_ladder.csv": predict_ladder.sections,
    "public_models_benchmarks.csv": predict_public.sections,
    "mixtures_slimpajama.csv": predict_slimpajama.sections,
    "regmix_mixture_1m.csv": predict_swarms.regmix,
    "olmix_ratios*.csv": predict_swarms.olmix,
}
PROCESSES = 2
RESULTS = "predict_results.csv"


def run(data: Path, out: Path) -> list[str]:
    """Run all sections of the files present. Return the files on which this program failed."""
    started = time.monotonic()
    present = runner.present(SOURCES, data)
    files = runner.opened(out, "predict")
    records: list[dict[str, str]] = []
    sections, broken = [], []
    for found in runner.found_in(SOURCES, present, data, PROCESSES):
        records += runner.report(found, files)
        sections += found.sections
        if found.failure:
            broken.append(found.name)
    if pooled := coverage(sections):
        runner.show(pooled)
        records += [{"section": pooled.title, **runner.record(row)} for row in pooled.rows]
    runner.finish(files, table_of(records), RESULTS)
    print(f"[all: {time.monotonic() - started:.1f} s]")
    return broken


def table_of(records: list[dict[str, str]]) -> pd.DataFrame:
    """Return the results: section, quantity, published, one column per method, ours."""
    frame = pd.DataFrame(records).rename(columns={"what": "quantity"})
    if frame.empty:
        return pd.DataFrame(columns=["section", "quantity", "published", "ours"])
    ends = ["section", "quantity", "published", "ours"]
    methods = [name for name in frame if name not in ends]
    used = [name for name in methods if frame[name].fillna("").ne("").any()]
    return frame[[*ends[:3], *used, "ours"]].fillna("")


if __name__ == "__main__":
    sys.exit(runner.main("predict", __doc__, run))
