"""Reproduce published loss-to-loss results: published number, published procedure, ours.

    python experiments/published/reproduce.py --data ../shared/data --out runs/published

Reads those of kempner_sweep.csv, kempner_extrapolation.csv, gadre_models.csv,
chinchilla_points.csv, llm_line_hf.csv and olmo_ladder.csv that are in the folder (README.md names
their sources). Models beyond a sweep's own largest budget (Kempner: that of kempner_sweep.csv, at
most 4.84e19 FLOPs; Gadre: 2B parameters; ladder: 1.5B) are never fitted, only predicted. Without
such models the largest ones present are held out. Prints one table per sweep with notes on what is
left out, and writes results.csv and a table of every single prediction. Files of an earlier run in
the folder are removed first; files of the user stay.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

# One BLAS thread: the matrices are small, and more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import ladder
import others
import pandas as pd
import sweep
from outputs import Outputs
from records import Section

from lossline.errors import UserError

SOURCES: dict[str, Callable[[Path], Iterable[Section]]] = {
    "kempner_sweep.csv": sweep.sections,
    "gadre_models.csv": others.gadre,
    "chinchilla_points.csv": others.chinchilla,
    "llm_line_hf.csv": others.llm_line,
    "olmo_ladder.csv": ladder.sections,
}

COLUMNS = ["section", "what", "published", "rerun", "ours"]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV files")
    options = parser.parse_args()
    try:
        broken = run(options.data, options.out)
    except UserError as mistake:
        print(f"reproduce: error: {mistake}", file=sys.stderr)
        return 2
    if broken:
        print(f"reproduce: error: not finished: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def run(data: Path, out: Path) -> list[str]:
    """Run all sections of the files present. Return the files on which this program failed."""
    present = [name for name in SOURCES if (data / name).is_file()]
    if not present:
        raise UserError(
            f"{data}: none of {', '.join(SOURCES)} there. README.md names their sources."
        )
    files = Outputs(out)
    for fate in ("removed", "kept"):
        if names := getattr(files, fate):
            why = "" if fate == "removed" else ", as they have changed since"
            print(f"{out}: {fate} from an earlier run{why}: {', '.join(sorted(names))}")
    if sweep.SWEEP not in present and (data / sweep.EXTRA).is_file():
        print(f"\n{sweep.EXTRA}: left out: no {sweep.SWEEP} to predict it from")
    records: list[dict[str, object]] = []
    broken = []
    for name in present:
        started = time.monotonic()
        try:
            for section in SOURCES[name](data):
                show(section)
                records += [{"section": section.title, **vars(row)} for row in section.rows]
                for table, frame in section.tables.items():
                    files.write(frame, f"{table}.csv")
        except UserError as mistake:
            print(f"\n{name}: left out: {mistake}")
        except Exception:  # the other files can still be used
            traceback.print_exc()
            broken.append(name)
        print(f"\n[{name}: {time.monotonic() - started:.1f} s]", flush=True)
    files.write(pd.DataFrame(records, columns=COLUMNS), "results.csv")
    for name, moved in files.moved.items():
        print(f"\n{out}/{name} existed and was not an earlier run's: renamed to {moved}")
    print(f"\nwritten to {out}: results.csv and the tables behind it")
    return broken


def show(section: Section) -> None:
    """Print one section."""
    print(f"\n== {section.title}")
    if section.rows:
        header = ("", "published", "procedure re-run", "ours")
        lines = [header] + [(r.what, r.published, r.rerun, r.ours) for r in section.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    for note in section.notes:
        print(note)


if __name__ == "__main__":
    sys.exit(main())
