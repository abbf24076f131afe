"""What `python -m lossline.import_sweep` does: import, say what was set aside, write the loss table
once."""

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

__all__ = ["ImportOptions", "import_to_file"]


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of `import_sweep`: the source, its files, the loss table to write and, for csv and
    JSON, the mapping file."""

    source: Sweep
    path: tuple[str, ...]
    out: str
    mapping: str | None = None


def import_to_file(options: ImportOptions) -> Path:
    """Imports and writes; an existing file is never overwritten, but the same table again is no
    mistake."""
    out = local_path(options.out, "import_sweep.out")
    imported = import_sweep(options.source, options.path, mapping=options.mapping)
    for note in imported.notes:
        print(note)
    table = imported.table
    if out.exists():
        if not _same(out, table):
            raise UserError(
                f"{out}: is there already and holds something else; remove it or choose another "
                f"--out"
            )
        print(f"{out} is up to date")
        return out
    write(table, out)
    used = table[table["status"] == str(Status.OK)]
    print(
        f"{out}: {len(used)} measurements of {used['run_id'].nunique()} runs on "
        f"{used['eval_set'].nunique()} sets; {len(table) - len(used)} rows set aside"
    )
    return out


def _same(out: Path, table: pd.DataFrame) -> bool:
    try:
        return read(out).equals(typed(complete(table)))  # columns in the order of a file
    except UserError:
        return False
