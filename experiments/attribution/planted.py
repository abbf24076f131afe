"""Level, power and verdicts of the attribution on planted studies.

    python experiments/attribution/planted.py --tables 300 --out experiments/attribution

Draws so many tables of each design in `designs.py` and writes ``planted.json`` and ``planted.md``.
A share s of n tables has a standard error of √(s (1 - s) / n): at most 3% for 300.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import json
import math
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one thread per process

import numpy as np
from designs import DESIGNS, plant

from lossline.scaling.attribution import AttributionOptions, attribute
from lossline.scaling.attribution_results import Verdict

OPTIONS = AttributionOptions(x_set="legal", resamples=0)
VERDICTS = tuple(
    verdict
    for verdict in Verdict
    if verdict not in (Verdict.CONFOUNDED, Verdict.CONSTANT, Verdict.MISSING)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What many tables of one design gave.

    Attributes:
      verdicts: share of each verdict on the factor in question; wrong: of those that contradict the
        truth.
      rejected: share of raw p-values below 0.05 over its pairs of levels, trends and sets: the
        level where nothing moves, the power of one test where something does.
      found: share of tables in which some contrast of this factor is significant after correction:
        the family's part of false alarms, or the power.
      noted: share of tables whose sentence gives another verdict without some of the data, or whose
        notes name a run.
    """

    design: str
    about: str
    factor: str
    truth: str
    tables: int
    verdicts: Mapping[str, float]
    wrong: float
    rejected: float
    found: float
    noted: float


def one_table(name: str, seed: int) -> tuple[str, float, bool, bool]:
    """Verdict, share of raw rejections, whether any contrast is significant, whether a note is
    made."""
    study = DESIGNS[name]
    attribution = attribute(plant(study, np.random.default_rng([seed, *name.encode()])), OPTIONS)
    factor = attribution.factor(study.factor)
    rows = attribution.contrasts
    mine = rows[(rows["factor"] == study.factor) & (rows["unit"] == "loss")]
    main = mine[(mine["kind"] == "levels") & mine["p_value"].notna()]
    rejected = float((main["p_value"] < 0.05).mean()) if len(main) else math.nan
    significant = bool((mine["p_corrected"] < OPTIONS.alpha).any())
    return str(factor.verdict), rejected, significant, bool(factor.otherwise or attribution.notes)


def score(name: str, found: Sequence[tuple[str, float, bool, bool]]) -> Score:
    study = DESIGNS[name]
    verdicts, rejected, significant, noted = zip(*found, strict=True)
    counts = collections.Counter(verdicts)
    return Score(
        design=name,
        about=study.about,
        factor=study.factor,
        truth=study.truth,
        tables=len(found),
        verdicts={str(v): counts[str(v)] / len(found) for v in VERDICTS if counts[str(v)]},
        wrong=sum(counts[str(v)] for v in study.wrong) / len(found),
        rejected=float(np.nanmean(rejected)),
        found=float(np.mean(significant)),
        noted=float(np.mean(noted)),
    )


def table(scores: Sequence[Score]) -> str:
    """Markdown, in percent."""
    used = [str(v) for v in VERDICTS if any(str(v) in s.verdicts for s in scores)]
    header = ["design", "truth", "p < .05", "found", "wrong", *used, "noted"]
    lines = [f"| {' | '.join(header)} |", "|---|---|" + "--:|" * (len(header) - 2)]
    for s in scores:
        shares = [s.rejected, s.found, s.wrong, *(s.verdicts.get(v, 0.0) for v in used), s.noted]
        cells = [f"{s.design} ({s.about})", s.truth, *(f"{100 * share:.0f}" for share in shares)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=300, help="tables of each design")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--out", type=Path, help="folder for planted.json and planted.md")
    arguments = parser.parse_args()
    scores = []
    started = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(arguments.processes) as pool:
        for name in arguments.designs:
            names = [name] * arguments.tables
            found = list(pool.map(one_table, names, range(arguments.tables), chunksize=8))
            scores.append(score(name, found))
            seconds = time.monotonic() - started
            print(f"[{seconds:6.0f} s] {scores[-1]}", flush=True)
            if arguments.out:  # after every design, so that a run that is cut off is of use
                write(arguments.out, arguments.tables, scores, seconds)
    print(table(scores))
    return 0


def write(out: Path, count: int, scores: Sequence[Score], seconds: float) -> None:
    facts = {
        "command": f"python experiments/attribution/planted.py --tables {count}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")},
        "seconds": round(seconds),
        "options": dataclasses.asdict(OPTIONS),
    }
    out.mkdir(parents=True, exist_ok=True)
    tree = facts | {"scores": [dataclasses.asdict(item) for item in scores]}
    (out / "planted.json").write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    head = (
        f"Made by `{facts['command']}` on {facts['date']} ({facts['machine']}). Percent of {count} "
        "tables; standard error at most "
        f"{100 * math.sqrt(0.25 / count):.1f}, at 5% {100 * math.sqrt(0.0475 / count):.1f}.\n\n"
    )
    (out / "planted.md").write_text(head + table(scores) + "\n")


if __name__ == "__main__":
    sys.exit(main())
