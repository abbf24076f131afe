"""Accuracy of guessing.

It is taken from the table's column ``x_chance``, or is 1 / number of answers for well-known
multiple-choice benchmarks.
"""

from __future__ import annotations

import pandas as pd

from lossline.tables.cells import as_numbers

# Column of a loss table; importers write it.
CHANCE = "x_chance"

# Number of answers, by the start of the set's name (letters and digits only).
_ANSWERS = {
    "arc": 4, "boolq": 2, "commonsenseqa": 5, "copa": 2, "csqa": 5, "hellaswag": 4, "mmlu": 4,
    "openbookqa": 4, "piqa": 2, "race": 4, "sciq": 4, "siqa": 3, "socialiqa": 3, "winogrande": 2,
}  # fmt: skip


def chance_level(eval_set: str, rows: pd.DataFrame | None = None) -> float | None:
    """Return the accuracy of guessing on an evaluation set; None if unknown.

    Args:
        eval_set: name of the set, e.g. ``arc_easy`` or ``ARC-Easy``.
        rows: rows of the set. If they state different values, the lowest is returned.
    """
    if rows is not None and CHANCE in rows:
        stated = as_numbers(rows[CHANCE]).min()
        if pd.notna(stated):
            return float(stated)
    bare = "".join(letter for letter in eval_set.lower() if letter.isalnum())
    for name, answers in _ANSWERS.items():
        if bare.startswith(name):
            return 1 / answers
    return None
