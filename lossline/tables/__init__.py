"""The loss table, the only format that the training half and the fitting half share.

Read a table and write it:

    from lossline import tables

    table = tables.load("runs/")      # a file, a run directory, or a folder of run directories
    tables.write(table, "losses.parquet")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lossline.tables.schema import COLUMN_NAMES, COLUMNS, SetKind, Status

if TYPE_CHECKING:
    from lossline.tables.checks import (
        Defect,
        exclude_bad_rows,
        find_problems,
        summarize,
        validate,
    )
    from lossline.tables.frames import concat, derive, from_rows
    from lossline.tables.storage import EXAMPLE, load, read, read_unchecked, write

# Imported when first used: training needs only the schema, and pandas takes a second.
_LATER = {
    "checks": ("Defect", "exclude_bad_rows", "find_problems", "summarize", "validate"),
    "frames": ("concat", "derive", "from_rows"),
    "storage": ("EXAMPLE", "load", "read", "read_unchecked", "write"),
}

__all__ = [
    "COLUMNS",
    "COLUMN_NAMES",
    "EXAMPLE",
    "Defect",
    "SetKind",
    "Status",
    "concat",
    "derive",
    "exclude_bad_rows",
    "find_problems",
    "from_rows",
    "load",
    "read",
    "read_unchecked",
    "summarize",
    "validate",
    "write",
]


def __getattr__(name: str) -> Any:
    """Import the module of a name."""
    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"lossline.tables.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
