"""Accuracy of guessing: as the table states it in a column ``x_chance``, or 1 / number of answers
of well-known benchmarks of multiple choice."""

from __future__ import annotations

import pandas as pd

from lossline.tables.cells import as_numbers

__all__ = ["CHANCE", "chance_level"]

# Carried along by loss tables; mapping files write it.
CHANCE = "x_chance"

# By the beginning of the name, letters and digits only.
_ANSWERS = {
    "arc": 4, "boolq": 2, "commonsenseqa": 5, "copa": 2, "csqa": 5, "hellaswag": 4, "mmlu": 4,
    "openbookqa": 4, "piqa": 2, "race": 4, "sciq": 4, "siqa": 3, "socialiqa": 3, "winogrande": 2,
}  # fmt: skip


def chance_level(eval_set: str, rows: pd.DataFrame | None = None) -> float | None:
    """Chance accuracy that the rows of a set state, the lowest if they differ, or else by its name,
    e.g. ``arc_easy`` or ``ARC-Easy``; None where it is not known."""
    if rows is not None and CHANCE in rows:
        stated = as_numbers(rows[CHANCE]).min()
        if pd.notna(stated):
            return float(stated)
    bare = "".join(letter for letter in eval_set.lower() if letter.isalnum())
    for name, answers in _ANSWERS.items():
        if bare.startswith(name):
            return 1 / answers
    return None
