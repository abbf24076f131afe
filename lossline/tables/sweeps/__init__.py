"""Importers: published sweeps and other tables as loss tables, matrices of scores as score tables.

Import a published file:

    from lossline.tables import sweeps

    table = sweeps.import_sweep("kempner", "sweep.csv").table
"""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from pathlib import Path

from lossline.errors import UserError
from lossline.tables.sweeps import published
from lossline.tables.sweeps.gadre import gadre
from lossline.tables.sweeps.mapped import by_mapping, read_mapping
from lossline.tables.sweeps.olmo_ladder import olmo_ladder
from lossline.tables.sweeps.score_matrices import perplexity_correlations
from lossline.tables.sweeps.wide import Imported

__all__ = ["Imported", "Sweep", "import_sweep"]


class Sweep(enum.StrEnum):
    """Sources with an importer of their own, and ``csv`` for any other table.

    Of ``perplexity_correlations`` comes a score table, of all others a loss table.
    """

    KEMPNER = "kempner"
    LLM_LINE = "llm_line"
    GADRE = "gadre"
    CHINCHILLA = "chinchilla"
    OLMO_LADDER = "olmo_ladder"
    PERPLEXITY_CORRELATIONS = "perplexity_correlations"
    CSV = "csv"


def import_sweep(
    source: Sweep | str,
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    mapping: str | os.PathLike[str] | None = None,
) -> Imported:
    """Import a table, with a note for everything left out or set aside.

    Args:
        source: source of the table.
        paths: its file, its files, or a folder of them.
        mapping: for ``csv``, ``olmo_ladder`` and ``gadre`` in JSON: TOML file that maps columns.

    Raises:
        UserError: the source is unknown, a file is missing, or columns are missing (which, and
            which were found).
    """
    names = [str(item) for item in Sweep]
    if str(source) not in names:
        raise UserError(f"unknown source {str(source)!r}; known: {', '.join(names)}")
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    files = [Path(path) for path in given]
    if not files:
        raise UserError("no path to import; give the file that the source publishes")
    columns = Path(mapping) if mapping is not None else None
    if source == Sweep.CSV:
        return by_mapping(files, columns)
    if source == Sweep.GADRE:
        return gadre(files, columns)
    if source == Sweep.OLMO_LADDER:
        stated = read_mapping(columns, needs_sets=False) if columns else None
        return olmo_ladder(files, stated)
    if mapping is not None:
        raise UserError(
            f"the source {str(source)!r} needs no mapping; use the source 'csv' with it"
        )
    if source == Sweep.PERPLEXITY_CORRELATIONS:
        return perplexity_correlations(files)
    return getattr(published, str(source))(files)
