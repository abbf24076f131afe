"""A comparison in sentences, and as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.comparisons.compare import LevelComparison
from lossline.files import write_json
from lossline.results_folder import ResultsFolder
from lossline.tables.schema import Unit

COMPARE_FOLDER = ResultsFolder(verb="compare")


def sentences(found: LevelComparison) -> list[str]:
    """Return one sentence per target, and one about the average ranks."""
    unit = Unit(found.settings["unit"])
    said = []
    for target, part in found.methods.groupby("target", sort=False):
        best = part.iloc[0]
        text = f"{target}: {best['method']} is lowest, {_with(best, 'mean', '.4f')} {unit.words}"
        base = part[part["method"] == found.settings["baseline"]]
        if len(base) and pd.notna(best["difference"]):
            text += f"; from {base.iloc[0]['method']}: {_with(best, 'difference', '+.4f')}"
        elif len(base):
            text += ", the baseline"
        said.append(text + ".")
    if len(found.ranks) > 1:
        shown = ", ".join(
            f"{row['method']} {_with(row, 'average_rank', '.2f')}"
            for row in found.ranks.to_dict("records")
        )
        said.append(f"Average rank over {found.ranks.iloc[0]['targets']} targets: {shown}.")
    return said


def _with(row: Any, name: str, form: str) -> str:
    """Return a number with its interval, if it has one."""
    low, high = ("low", "high") if name != "difference" else ("difference_low", "difference_high")
    bounds = f" [{row[low]:{form}}, {row[high]:{form}}]" if pd.notna(row[low]) else ""
    return f"{row[name]:{form}}{bounds}"


def summary(found: LevelComparison) -> str:
    """Return the comparison as text: sentences, notes, and what was left out."""
    lines = [f"- {sentence}" for sentence in sentences(found)]
    if found.notes:
        lines += ["", "Notes:", *(f"- {note}" for note in found.notes)]
    if len(found.left_out):
        lines += ["", "Left out:"]
        lines += [f"- {row.what}: {row.reason}" for row in found.left_out.itertuples()]
    return "\n".join(lines)


def save_comparison(
    found: LevelComparison, folder: Path, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write methods and values as CSV and Parquet, ranks as CSV, and comparison.json.

    Args:
        found: the comparison.
        folder: an existing folder.
        provenance: origin of the numbers, kept in comparison.json.
    """
    for name in ("methods", "ranks", "values"):
        getattr(found, name).to_csv(folder / f"{name}.csv", index=False)
    for name in ("methods", "values"):
        getattr(found, name).to_parquet(folder / f"{name}.parquet", index=False)
    about = {
        "settings": dict(found.settings),
        "notes": list(found.notes),
        "left_out": found.left_out.to_dict("records"),
        "provenance": dict(provenance or {}),
    }
    write_json(folder / "comparison.json", about)
