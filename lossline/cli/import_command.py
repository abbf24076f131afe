"""Implementation of ``python -m lossline.import_sweep``: import, report left-out rows, write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lossline import tables
from lossline.errors import UserError
from lossline.places import to_path
from lossline.tables import scores
from lossline.tables.frames import complete, typed
from lossline.tables.schema import Status
from lossline.tables.sweeps import Sweep, import_sweep


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of ``lossline.import_sweep``.

    Attributes:
        source: format of the table.
        path: files, or a folder of files.
        out: table to write.
        mapping: TOML file of columns, for csv and JSON.
    """

    source: Sweep
    path: tuple[str, ...]
    out: str
    mapping: str | None = None


def import_to_file(options: ImportOptions) -> Path:
    """Import a table and write the loss table, or the score table.

    An existing file with the same contents is left as it is.

    Raises:
        UserError: ``out`` exists with different contents.
    """
    out = to_path(options.out, "import_sweep.out")
    imported = import_sweep(options.source, options.path, mapping=options.mapping)
    for note in imported.notes:
        print(note)
    table = imported.table if imported.holds_scores else typed(complete(imported.table))
    storage = scores if imported.holds_scores else tables
    if out.exists():
        if not _same(storage.read, out, table):
            raise UserError(
                f"{out} already exists with different contents. Delete it or pass another --out."
            )
        print(f"{out} is up to date")
        return out
    storage.write(table, out)
    print(f"{out}: {_summary(table) if storage is tables else scores.summary(table)}")
    return out


def _summary(table: pd.DataFrame) -> str:
    used = table[table["status"] == str(Status.OK)]
    return (
        f"{len(used)} measurements of {used['run_id'].nunique()} runs on "
        f"{used['eval_set'].nunique()} sets; {len(table) - len(used)} rows left out"
    )


def _same(read: Callable[[Path], pd.DataFrame], out: Path, table: pd.DataFrame) -> bool:
    """Return whether a file holds a table, given with its columns in the order of a file."""
    try:
        return read(out).equals(table)
    except UserError:
        return False
