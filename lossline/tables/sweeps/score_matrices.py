"""Import matrices of scores: one column per model, one row per domain or benchmark.

The first column is ``id`` or ``domain`` (bits per byte of each model on each domain), or
``benchmark``. A benchmark's values are errors, except that LAMBADA's are perplexities, as in the
data of perplexity correlations (arXiv:2409.05816). A column ``measure`` states the measure of each
row instead.

The name of a model's column is ``('family', 'org/name')`` or a plain name; the family of a plain
name is the part before "/", or the name itself. A model that has columns in two families (one of
the published models has) becomes two models, ``org/name (family)``, with a note. An empty cell
makes no row in the score table.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables import scores
from lossline.tables.cells import as_text
from lossline.tables.frames import row_number
from lossline.tables.scores import Measure, ScoreKind
from lossline.tables.sweeps.sheets import short_names
from lossline.tables.sweeps.wide import Imported, find_files, numbers, read_wide

_KIND_OF = {"id": ScoreKind.DOMAIN, "domain": ScoreKind.DOMAIN, "benchmark": ScoreKind.BENCHMARK}
_MEASURE = "measure"


def perplexity_correlations(paths: Sequence[Path]) -> Imported:
    """Import matrices as one score table, with notes on empty cells and on missing models.

    Args:
        paths: files, or folders of files; usually one of domains and one of benchmarks.

    Raises:
        UserError: the first column has another name; a domain, benchmark or model is repeated; a
            cell is no number or not possible for its measure; or nothing has a value.
    """
    files, notes = find_files(paths)
    parts = []
    for file, where in zip(files, short_names(files), strict=True):
        part, more = _long(read_wide(file), where)
        parts.append(part)
        notes += more
    rows, twice = _one_family_each(pd.concat(parts, ignore_index=True))
    table = scores.from_frame(rows)
    _refuse_impossible(table)
    table = table.drop(columns="x_place")
    return Imported(table=table, notes=(*notes, *twice, *_unmatched(table)), holds_scores=True)


def _long(frame: pd.DataFrame, where: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of one matrix, and notes; ``x_place`` names each row's cell."""
    first = str(frame.columns[0])
    if first not in _KIND_OF:
        raise UserError(
            f"{where}: the first column is {first!r}. Name it 'id' if the rows are domains (bits "
            "per byte), or 'benchmark' if they are benchmarks (errors)."
        )
    kind, names = _KIND_OF[first], _names(frame[first], where)
    measures = _measures(frame, kind, names)
    columns = [str(name) for name in frame.columns[1:] if name != _MEASURE]
    models = _models(columns, where)
    values = np.stack([numbers(frame, column, where).to_numpy() for column in columns], axis=1)
    row, column = np.nonzero(~np.isnan(values))
    if not len(row):
        raise UserError(f"{where}: no cell has a value. Is this the right table?")
    places = [f"{where}: column {name!r}, " for name in columns]
    rows = pd.DataFrame(
        {
            "model": np.array([model for _, model in models], object)[column],
            "family": np.array([family for family, _ in models], object)[column],
            "kind": str(kind),
            "name": names.to_numpy(object)[row],
            "measure": measures.to_numpy(object)[row],
            "value": values[row, column],
            "x_place": [places[c] + row_number(int(r)) for r, c in zip(row, column, strict=True)],
        }
    )
    empty = values.size - len(row)
    note = f"{where}: {empty} of {values.size} cells are empty; they make no row"
    return rows, [note] if empty else []


def _names(cells: pd.Series, where: str) -> pd.Series:
    """Return the names of the rows, each given once."""
    names = as_text(cells)
    for position in np.flatnonzero(names.isna()):
        raise UserError(
            f"{where}: column {cells.name!r}, {row_number(int(position))}: no name; add one"
        )
    for position in np.flatnonzero(names.duplicated()):
        before = int(np.flatnonzero(names == names.iloc[position])[0])
        place = f"column {cells.name!r}, {row_number(int(position))}"
        raise UserError(
            f"{where}: {place}: {names.iloc[position]!r} is already in {row_number(before)}; keep "
            "one row of each name"
        )
    return names


def _measures(frame: pd.DataFrame, kind: ScoreKind, names: pd.Series) -> pd.Series:
    """Return the measure of each row."""
    if kind is ScoreKind.DOMAIN:
        usual = pd.Series(str(Measure.BITS_PER_BYTE), index=names.index, dtype=object)
    else:
        lambada = names.str.casefold().str.startswith("lambada")
        usual = lambada.map({True: str(Measure.PERPLEXITY), False: str(Measure.ERROR)})
    return as_text(frame[_MEASURE]).fillna(usual) if _MEASURE in frame.columns else usual


def _models(columns: Sequence[str], where: str) -> list[tuple[str, str]]:
    """Return (family, model) of each column, each pair given once."""
    if not columns:
        raise UserError(f"{where}: no column of a model. Add one column for each model.")
    models = [_family_and_model(column) for column in columns]
    first: dict[tuple[str, str], str] = {}
    for column, model in zip(columns, models, strict=True):
        if model in first:
            raise UserError(
                f"{where}: columns {first[model]!r} and {column!r} are the same model; keep one"
            )
        first[model] = column
    return models


def _family_and_model(column: str) -> tuple[str, str]:
    """Split ``('family', 'org/name')``; the family of a plain name is the part before "/"."""
    if column.startswith("("):
        try:
            named = ast.literal_eval(column)
        except (ValueError, SyntaxError):
            named = None
        if isinstance(named, tuple) and list(map(type, named)) == [str, str]:
            return named
    return column.partition("/")[0], column


def _one_family_each(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows with a model of its own for each family that a model is in, and notes."""
    families = rows.groupby("model", sort=False)["family"].unique()
    several = families[families.map(len) > 1]
    twice = rows["model"].isin(several.index)
    named = rows["model"].where(~twice, rows["model"] + " (" + rows["family"] + ")")
    notes = [
        f"model {model!r} has columns in {len(found)} families ({', '.join(found)}); they count as "
        f"{len(found)} models"
        for model, found in several.items()
    ]
    return rows.assign(model=named), notes


def _refuse_impossible(table: pd.DataFrame) -> None:
    """Raise the first problem of the score table, with the place of its cell in the source."""
    for problem in scores.find_problems(table):
        place = table["x_place"].iloc[problem.position]
        raise UserError(f"{place}: {problem.column}: {problem.what}; {problem.fix}")


def _unmatched(table: pd.DataFrame) -> list[str]:
    """Return one note per benchmark without all models, and one on models without a domain."""
    domains = table[table["kind"] == str(ScoreKind.DOMAIN)]
    benchmarks = table[table["kind"] == str(ScoreKind.BENCHMARK)]
    if domains.empty or benchmarks.empty:
        return []
    scored = dict.fromkeys(domains["model"])
    notes = []
    for name, rows in benchmarks.groupby("name", sort=False):
        missing = [model for model in scored if model not in set(rows["model"])]
        if missing:
            notes.append(
                f"benchmark {name!r} has no value for {_listed(missing)}; estimates for it leave "
                "these models out"
            )
    alone = [model for model in dict.fromkeys(benchmarks["model"]) if model not in scored]
    if alone:
        notes.append(f"no domain is scored for {_listed(alone)}; estimates leave these models out")
    return notes


def _listed(models: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(models[:most])
    more = f", … ({len(models)} models)" if len(models) > most else ""
    return shown + more
