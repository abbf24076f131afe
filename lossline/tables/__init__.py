"""The loss table, the only format that the training half and the fitting half share.

Read a table and write it:

    from lossline import tables

    table = tables.load("runs/")      # a file, a run directory, or a folder of run directories
    tables.write(table, "losses.parquet")
"""

from lossline.tables.checks import (
    Defect,
    exclude_bad_rows,
    find_problems,
    summarize,
    validate,
)
from lossline.tables.frames import concat, derive, from_rows
from lossline.tables.schema import COLUMN_NAMES, COLUMNS, SetKind, Status
from lossline.tables.storage import EXAMPLE, load, read, read_unchecked, write

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
