"""What verbs that turn loss tables into results folders share: reading, fingerprint, provenance."""

from __future__ import annotations

import enum
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import lossline
from lossline import tables
from lossline.options.identity import identity
from lossline.tables.frames import concat, row_number
from lossline.tables.storage import find_tables


class BadRows(enum.Enum):
    """What to do with a table that has bad rows."""

    REFUSE = "refuse"
    EXCLUDE = "exclude"


def as_paths(table: str | Sequence[str]) -> list[str]:
    """Return the paths of the option ``table``: one path, or several."""
    return [table] if isinstance(table, str) else list(table)


def read_table(paths: Sequence[str], bad_rows: BadRows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the loss table, and the rows that could not be kept in it.

    Prints one line for each kind of bad row that it excludes.

    Returns:
        The table, and the dropped rows with the columns of ``TableFit.excluded``.

    Raises:
        UserError: a file is missing or no loss table, or bad rows are to be refused.
    """
    if bad_rows is BadRows.REFUSE:
        return tables.load(list(paths)), pd.DataFrame()
    parts = [tables.read_unchecked(file) for path in paths for file in find_tables(path)]
    table, problems = tables.exclude_bad_rows(parts[0] if len(parts) == 1 else concat(parts))
    where = " + ".join(paths)
    for line in tables.summarize(problems, where):
        print(f"excluded: {line}", flush=True)
    dropped = [
        {
            "what": where,
            "rows": 1,
            "reason": f"dropped: {row_number(p.position)}: {p.column}: {p.what}",
        }
        for p in problems
        if p.unplaceable
    ]
    return table, pd.DataFrame(dropped)


def fingerprint_of(table: pd.DataFrame, options: Any, rooms: Sequence[str]) -> str:
    """Return the SHA-256 (hex) of everything that the results depend on.

    It covers the rows of the table, the options, the version, and the code of the rooms.

    Args:
        table: the loss table.
        options: a dataclass of options.
        rooms: packages of lossline that make the results.
    """
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    digest = hashlib.sha256(rows.tobytes())
    digest.update(
        json.dumps([list(table.columns), identity(options), lossline.__version__]).encode()
    )
    package = Path(lossline.__file__).parent
    sources = [file for room in rooms for file in package.glob(f"{room}/**/*.py")]
    for source in sorted([*sources, package / "run_order.py"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def provenance(verb: str, paths: Sequence[str], fingerprint: str) -> dict[str, object]:
    """Return table, versions, command and fingerprint of results."""
    names = ("numpy", "scipy", "pandas", "matplotlib")
    versions = {"lossline": lossline.__version__, "python": sys.version.split()[0]}
    return {
        "table": ", ".join(paths),
        "versions": versions | {name: version(name) for name in names},
        "command": f"python -m lossline.{verb} {' '.join(sys.argv[1:])}".strip(),
        "fingerprint": fingerprint,
    }


def say_since(started: float, text: str) -> None:
    """Print a line of progress with the seconds since ``started`` (``time.monotonic``)."""
    print(f"[{time.monotonic() - started:5.1f} s] {text}", flush=True)
