"""Implementation of ``python -m lossline.import_sweep``: import, report left-out rows, write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lossline.errors import UserError
from lossline.places import local_path
from lossline.tables.frames import complete, typed
from lossline.tables.schema import Status
from lossline.tables.storage import read, write
from lossline.tables.sweeps import Sweep, import_sweep


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of ``lossline.import_sweep``.

    Attributes:
        source: format of the table.
        path: files, or a folder of files.
        out: loss table to write.
        mapping: TOML file of columns, for csv and JSON.
    """

    source: Sweep
    path: tuple[str, ...]
    out: str
    mapping: str | None = None


def import_to_file(options: ImportOptions) -> Path:
    """Import a table and write the loss table.

    An existing file with the same contents is left as it is.

    Raises:
        UserError: ``out`` exists with different contents.
    """
    out = local_path(options.out, "import_sweep.out")
    imported = import_sweep(options.source, options.path, mapping=options.mapping)
    for note in imported.notes:
        print(note)
    table = imported.table
    if out.exists():
        if not _same(out, table):
            raise UserError(
                f"{out} already exists with different contents. Delete it or pass another --out."
            )
        print(f"{out} is up to date")
        return out
    write(table, out)
    used = table[table["status"] == str(Status.OK)]
    print(
        f"{out}: {len(used)} measurements of {used['run_id'].nunique()} runs on "
        f"{used['eval_set'].nunique()} sets; {len(table) - len(used)} rows left out"
    )
    return out


def _same(out: Path, table: pd.DataFrame) -> bool:
    try:
        return read(out).equals(
            typed(complete(table))
        )  # with the columns in the order of a written file
    except UserError:
        return False
