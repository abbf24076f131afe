"""Reproduce published loss-to-loss results: published number, published procedure, ours.

    python experiments/published/reproduce.py --data published_data --out runs/published

Reads those of kempner_sweep.csv, kempner_extrapolation.csv, gadre_models.csv,
chinchilla_points.csv, llm_line_hf.csv and olmo_ladder.csv that are in the folder (README.md names
their sources). Models beyond a sweep's own largest budget (Kempner: that of kempner_sweep.csv, at
most 4.84e19 FLOPs; Gadre: 2B parameters; ladder: 1.5B) are never fitted, only predicted. Without
such models the largest ones present are held out. Prints one table per sweep with notes on what is
left out, and writes results.csv and a table of every single prediction. Files of an earlier run in
the folder are removed first; files of the user stay.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# One BLAS thread: the matrices are small, and more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import ladder
import others
import pandas as pd
import runner
import sweep

SOURCES: dict[str, runner.Sections] = {
    "kempner_sweep.csv": sweep.sections,
    "gadre_models.csv": others.gadre,
    "chinchilla_points.csv": others.chinchilla,
    "llm_line_hf.csv": others.llm_line,
    "olmo_ladder.csv": ladder.sections,
}

COLUMNS = ["section", "what", "published", "rerun", "ours"]


def run(data: Path, out: Path) -> list[str]:
    """Run all sections of the files present. Return the files on which this program failed."""
    present = runner.present(SOURCES, data)
    files = runner.opened(out, "reproduce")
    if sweep.SWEEP not in present and (data / sweep.EXTRA).is_file():
        print(f"\n{sweep.EXTRA}: left out: no {sweep.SWEEP} to predict it from")
    records: list[dict[str, str]] = []
    broken = []
    for found in runner.found_in(SOURCES, present, data):
        records += runner.report(found, files)
        if found.failure:
            broken.append(found.name)
    runner.finish(files, pd.DataFrame(records, columns=COLUMNS), "results.csv")
    return broken


if __name__ == "__main__":
    sys.exit(runner.main("reproduce", __doc__, run))
