"""Measure level, power and verdicts of the attribution on planted studies.

    python experiments/attribution/planted.py --out experiments/attribution

For each design in ``designs.py``, draws tables until every share has a standard error of at most 3%
(or 300 tables: 2.9% for any share). Writes ``planted.json`` and ``planted.md`` after each design.
With ``--keep``, designs that are already in ``planted.json`` are not drawn again.
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

from lossline.attribution import AttributionOptions, attribute
from lossline.attribution.results import Verdict

OPTIONS = AttributionOptions(x_set="legal", resamples=0)
ERROR = 0.03
STEP = 50  # tables drawn between looks at the error
VERDICTS = tuple(
    verdict
    for verdict in Verdict
    if verdict not in (Verdict.CONFOUNDED, Verdict.CONSTANT, Verdict.MISSING)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """Results over many tables of one design.

    Attributes:
        design: name of the design.
        about: description of the design.
        factor: factor under test.
        truth: what the factor does in the planted study.
        tables: number of tables drawn.
        verdicts: verdict on the factor -> share of tables.
        wrong: share of verdicts that contradict the truth.
        rejected: share of uncorrected p-values below 0.05, over pairs of levels, trends and sets.
            This is the level where nothing moves, and the power of one test where something does.
        found: share of tables where some contrast of this factor is significant after correction.
            This is the rate of false alarms, or the power.
        noted: share of tables whose sentence gives another verdict without some of the data, or
            whose notes name a run.
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
    """Attribute one planted table.

    Returns:
        The verdict, the share of uncorrected p-values below 0.05, whether any contrast is
        significant after correction, and whether there is a note.
    """
    study = DESIGNS[name]
    attribution = attribute(plant(study, np.random.default_rng([seed, *name.encode()])), OPTIONS)
    factor = attribution.factor(study.factor)
    rows = attribution.contrasts
    mine = rows[(rows["factor"] == study.factor) & (rows["unit"] == "loss")]
    main = mine[(mine["kind"] == "levels") & mine["p_value"].notna()]
    rejected = float((main["p_value"] < 0.05).mean()) if len(main) else math.nan
    significant = bool((mine["p_corrected"] < OPTIONS.alpha).any())
    return str(factor.verdict), rejected, significant, bool(factor.otherwise or attribution.notes)


def error(count: int, tables: int) -> float:
    """Return the standard error of a share, with one success and one failure added.

    Without these, the standard error of a share of 0 or 1 would be 0.
    """
    share = (count + 1) / (tables + 2)
    return math.sqrt(share * (1 - share) / tables)


def enough(found: Sequence[tuple[str, float, bool, bool]]) -> bool:
    """Return whether every share has a standard error of at most 3%."""
    counts = list(collections.Counter(verdict for verdict, *_ in found).values())
    counts += [sum(significant for *_, significant, _ in found), sum(n for *_, n in found)]
    return max(error(count, len(found)) for count in counts) <= ERROR


def draw(pool: concurrent.futures.Executor, name: str, most: int) -> Score:
    """Draw and attribute tables of one design, until there are enough or ``most``."""
    found: list[tuple[str, float, bool, bool]] = []
    while len(found) < most and not (len(found) >= STEP and enough(found)):
        seeds = range(len(found), min(len(found) + STEP, most))
        found += pool.map(one_table, [name] * len(seeds), seeds, chunksize=5)
    return score(name, found)


def score(name: str, found: Sequence[tuple[str, float, bool, bool]]) -> Score:
    """Summarize the tables of one design."""
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
    """Return the scores as a Markdown table, in percent."""
    used = [str(v) for v in VERDICTS if any(str(v) in s.verdicts for s in scores)]
    header = ["design", "truth", "tables", "p < .05", "found", "wrong", *used, "noted"]
    lines = [f"| {' | '.join(header)} |", "|---|---|" + "--:|" * (len(header) - 2)]
    for s in scores:
        shares = [s.rejected, s.found, s.wrong, *(s.verdicts.get(v, 0.0) for v in used), s.noted]
        cells = [
            f"{s.design} ({s.about})",
            s.truth,
            str(s.tables),
            *(f"{100 * share:.0f}" for share in shares),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Draw the designs named on the command line and write their scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=300, help="maximum number of tables per design")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS), choices=list(DESIGNS))
    parser.add_argument("--out", type=Path, help="folder for planted.json and planted.md")
    parser.add_argument("--keep", action="store_true", help="keep the designs in planted.json")
    arguments = parser.parse_args()
    scores = kept(arguments.out) if arguments.keep and arguments.out else {}
    started = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(arguments.processes) as pool:
        for name in arguments.designs:
            if name in scores:
                continue
            scores[name] = draw(pool, name, arguments.most)
            print(f"[{time.monotonic() - started:6.0f} s] {scores[name]}", flush=True)
            if arguments.out:
                write(arguments.out, scores)
    print(table([scores[name] for name in arguments.designs]))
    return 0


def kept(out: Path) -> dict[str, Score]:
    """Return the scores that an earlier run wrote, by design."""
    path = out / "planted.json"
    if not path.is_file():
        return {}
    return {item["design"]: Score(**item) for item in json.loads(path.read_text())["scores"]}


def write(out: Path, by_design: Mapping[str, Score]) -> None:
    """Write planted.json and planted.md."""
    scores = [by_design[name] for name in DESIGNS if name in by_design]
    facts = {
        "command": "python experiments/attribution/planted.py --out experiments/attribution",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in ("numpy", "scipy", "pandas")},
        "options": dataclasses.asdict(OPTIONS),
    }
    out.mkdir(parents=True, exist_ok=True)
    tree = facts | {"scores": [dataclasses.asdict(item) for item in scores]}
    (out / "planted.json").write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    head = (
        f"Made by `{facts['command']}` on {facts['date']}. Percent of tables; standard errors are "
        "at most 3.\n\n"
    )
    (out / "planted.md").write_text(head + table(scores) + "\n")


if __name__ == "__main__":
    sys.exit(main())
