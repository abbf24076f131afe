"""Measure whole fits of loss tables against another commit, and compare all their numbers.

    python experiments/benchmarks/whole_fit_speed.py --tables kempner.parquet ladder.parquet

For each table, `python -m lossline.fit` of the other commit (`--commit`, checked out into a
temporary folder) and of this one run one after the other, `--rounds` times, so that both meet the
same load of the machine. The script prints wall time, CPU time, memory of all processes (Linux) and
the ratio of the fastest rounds, and writes whole_fit_speed.json next to this file. All numbers of
both result folders are compared bit by bit; the other commit runs with one BLAS thread for that,
because the number of threads changes its last digits. `--any_threads` leaves that to its default.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Provenance and options, which differ between commits.
NOT_RESULTS = ("settings.json", "fit.json")


def children(process: int) -> list[int]:
    """Return a process and all below it; none that has ended."""
    try:
        own = [p.read_text() for p in Path(f"/proc/{process}/task").glob("*/children")]
    except OSError:
        return []
    return [process, *(c for text in own for child in text.split() for c in children(int(child)))]


def memory(process: int) -> int:
    """Return the memory of a process and those below it in bytes, shared pages counted once."""
    total = 0
    for one in children(process):
        try:
            lines = Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return 1024 * total


def measured(command: list[str], *, every: float = 0.2, **where: Any) -> dict[str, float]:
    """Run a command without its output; return seconds, and bytes of all its processes.

    Args:
        command: the command.
        every: seconds between two looks at the memory. A look at a process of 2 GB takes 20 ms of
            a core, so it slows down what it measures. 0: do not look, and return 0 bytes.
        where: further arguments of ``subprocess.Popen``.
    """
    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **where) as process:
        while every and process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(every)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"wall_s": time.monotonic() - start, "cpu_s": cpu, "peak_bytes": float(peak)}


def fit(code: Path, table: Path, out: Path, env: dict[str, str]) -> dict[str, float]:
    """Fit a table with the code of a folder; return seconds and bytes."""
    command = [sys.executable, "-m", "lossline.fit", f"--table={table}", f"--out={out}"]
    return measured(command, env=os.environ | env | {"PYTHONPATH": str(code)}, cwd=code)


def differences(first: Path, second: Path) -> Iterator[str]:
    """Yield the results of two folders that are not equal to the last bit."""
    for path in sorted(first.iterdir()):
        other = second / path.name
        if path.name in NOT_RESULTS or path.suffix not in (".parquet", ".json", ".txt"):
            continue
        if path.suffix == ".parquet":
            one, two = pd.read_parquet(path), pd.read_parquet(other)
            same = one.equals(two) and (one.dtypes == two.dtypes).all()
        else:
            same = path.read_bytes() == other.read_bytes()
        if not same:
            yield path.name


def measure(table: Path, old: Path, rounds: int, threads: dict[str, str]) -> dict[str, Any]:
    """Fit one table with both commits in turn."""
    runs: dict[str, list[dict[str, float]]] = {"old": [], "new": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            outs = {name: Path(folder) / f"{name}-{number}" for name in runs}
            runs["old"].append(fit(old, table, outs["old"], threads))
            runs["new"].append(fit(ROOT, table, outs["new"], {}))
        unequal = list(differences(outs["old"], outs["new"]))
    best = {name: {key: min(run[key] for run in of) for key in of[0]} for name, of in runs.items()}
    ratios = {key: best["old"][key] / best["new"][key] for key in ("wall_s", "cpu_s")}
    return {**best, "old_over_new": ratios, "results_that_differ": unequal}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="loss tables")
    parser.add_argument("--commit", default="e5bc254", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--any_threads", action="store_true", help="see above")
    given = parser.parse_args()
    threads = {} if given.any_threads else {"OPENBLAS_NUM_THREADS": "1"}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(old)], check=True)
        subprocess.run(["git", "checkout", "-q", given.commit], cwd=old, check=True)
        for table in given.tables:
            found[table.stem] = one = measure(table.resolve(), old, given.rounds, threads)
            new, ratio = one["new"], one["old_over_new"]
            print(
                f"{table.stem}: {new['wall_s']:.1f} s, {new['cpu_s']:.1f} s of CPU, "
                f"{new['peak_bytes'] / 1e6:.0f} MB; {given.commit} takes {ratio['wall_s']:.2f} "
                f"times as long, {ratio['cpu_s']:.2f} times the CPU time; results that differ: "
                f"{', '.join(one['results_that_differ']) or 'none'}",
                flush=True,
            )
    facts = {"commit": given.commit, "cores": os.cpu_count(), "rounds": given.rounds}
    text = json.dumps({**facts, "tables": found}, indent=1) + "\n"
    (HERE / "whole_fit_speed.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
