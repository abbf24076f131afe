"""Token dynamics as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossline.files import write_json
from lossline.options.identity import identity
from lossline.results_folder import ResultsFolder
from lossline.tables.frames import with_strings
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.results import TokenDynamics

DYNAMICS_FOLDER = ResultsFolder(verb="dynamics")
_CSV = ("classes", "curves", "excess", "agreement", "runs")


def save_dynamics(
    found: TokenDynamics, options: AnalysisOptions, folder: Path, provenance: Mapping[str, Any]
) -> None:
    """Write tokens.parquet, the tables and settings.json into ``folder``.

    excess.csv is written only if there is a reference.

    Args:
        found: the results.
        options: their options.
        folder: an existing folder.
        provenance: origin of the numbers.
    """
    with_strings(found.tokens).to_parquet(folder / "tokens.parquet", index=False)
    for name in _CSV:
        table = getattr(found, name)
        if len(table):
            table.to_csv(folder / f"{name}.csv", index=False)
    about = {
        "options": identity(options),
        "reference": found.reference,
        "notes": list(found.notes),
        "provenance": dict(provenance),
    }
    write_json(folder / "settings.json", about)
