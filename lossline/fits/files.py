"""Results of a fit as files: Parquet and JSON, written atomically, and read back."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossline import tables
from lossline.attribution.results import Attribution
from lossline.errors import UserError
from lossline.files import local_copy, write_json
from lossline.fits.results import ComputeLawFit, TableFit
from lossline.laws.results import FitStatus
from lossline.lines.calibration import Calibration
from lossline.lines.estimators import PARAMETERS
from lossline.lines.fitting import Irreducible, Line, LineKind
from lossline.places import to_path
from lossline.results_folder import ResultsFolder
from lossline.tables.pairing import Pairing
from lossline.tables.storage import write_frame

FIT_FOLDER = ResultsFolder(verb="fit")
_FRAMES = ("heldout", "excluded")
_DRAWS = PARAMETERS


def save_results(results: TableFit, folder: Path) -> None:
    """Write all parts of the results into ``folder``.

    The table is the validated one that was fitted, so it is not checked again.
    """
    write_frame(results.table, folder / "losses.parquet", "a loss table")
    lines = [line.to_dict() for line in results.lines]
    write_plain_json(folder / "lines.json", lines)
    _flat(lines).to_parquet(folder / "lines.parquet", index=False)
    _draws(results.lines).to_parquet(folder / "line_draws.parquet", index=False)
    laws = [_plain(dataclasses.asdict(law)) for law in results.compute_laws]
    write_plain_json(folder / "compute_laws.json", laws)
    _flat(laws).to_parquet(folder / "compute_laws.parquet", index=False)
    write_plain_json(folder / "attribution.json", results.attribution.to_dict())
    results.attribution.effects().to_parquet(folder / "attribution.parquet", index=False)
    results.attribution.contrasts.to_parquet(folder / "contrasts.parquet", index=False)
    for name in _FRAMES:
        frame = getattr(results, name)
        frame.astype({c: "string" for c in frame.columns if frame[c].dtype == object}).to_parquet(
            folder / f"{name}.parquet", index=False
        )
    write_plain_json(folder / "excluded.json", _plain(results.excluded.to_dict("records")))
    write_plain_json(
        folder / "settings.json", {"settings": results.settings, "provenance": results.provenance}
    )


def load_results(path: str | os.PathLike[str]) -> TableFit:
    """Read the results that ``python -m lossline.fit`` has written to a folder.

    Raises:
        UserError: the folder holds no results, or results of a version with other fields.
    """
    folder = to_path(path)
    if not (folder / FIT_FOLDER.mark).is_file():
        raise UserError(
            f"{folder}: holds no {FIT_FOLDER.what} (no {FIT_FOLDER.mark}). Run python -m "
            f"lossline.fit with --out={folder}, or give another path."
        )
    try:
        with local_copy(folder) as local:
            return _results_in(local)
    except (KeyError, TypeError, FileNotFoundError) as error:  # fields or files of another version
        raise UserError(
            f"{folder}: holds results of another version of lossline. Fit again with "
            f"--out={folder} --replace."
        ) from error


def _results_in(folder: Path) -> TableFit:
    """Read all parts of the results."""
    draws = pd.read_parquet(folder / "line_draws.parquet")
    by_line = {
        int(str(index)): rows[list(_DRAWS)].to_numpy(float) for index, rows in draws.groupby("line")
    }
    lines = [
        _line(tree, by_line.get(index, np.empty((0, len(_DRAWS)))))
        for index, tree in enumerate(_read_json(folder / "lines.json"))
    ]
    contrasts = pd.read_parquet(folder / "contrasts.parquet")
    kept = _read_json(folder / "settings.json")
    return TableFit(
        table=tables.read(folder / "losses.parquet"),
        lines=tuple(lines),
        compute_laws=tuple(_law(tree) for tree in _read_json(folder / "compute_laws.json")),
        attribution=Attribution.from_dict(_read_json(folder / "attribution.json"), contrasts),
        **{name: pd.read_parquet(folder / f"{name}.parquet") for name in _FRAMES},
        settings=kept["settings"],
        provenance=kept["provenance"],
    )


def _line(tree: Mapping[str, Any], draws: np.ndarray) -> Line:
    """Return a line from its JSON tree and its draws."""
    fields: dict[str, Any] = {k: math.nan if v is None else v for k, v in tree.items()}
    fields["group"], fields["y_group"] = tree["group"], tree["y_group"]
    for name in ("x_range", "y_range"):
        fields[name] = tuple(math.nan if value is None else value for value in tree[name])
    fields["calibration"] = Calibration.from_dict(tree["calibration"])
    enums = {"status": FitStatus, "kind": LineKind, "pairing": Pairing, "irreducible": Irreducible}
    fields |= {name: cls(tree[name]) for name, cls in enums.items()}
    return Line(**fields, draws=draws)


def _law(tree: Mapping[str, Any]) -> ComputeLawFit:
    """Return a law from its JSON tree."""
    numbers = {
        name: math.nan if tree[name] is None else tree[name] for name in ("E_low", "E_high", "r2")
    }
    return ComputeLawFit(**{**tree, **numbers})


def _flat(trees: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return one row per tree; nested values are columns name.key, ranges name.0 and name.1."""
    return pd.DataFrame([dict(_leaves("", tree)) for tree in trees]) if trees else pd.DataFrame()


def _leaves(prefix: str, tree: Mapping[str, Any]):
    """Yield dotted name and value of each leaf of a tree."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(f"{name}.", value)
        elif isinstance(value, list):
            yield from _leaves(f"{name}.", {str(index): item for index, item in enumerate(value)})
        else:
            yield name, value


def _draws(lines: Sequence[Line]) -> pd.DataFrame:
    """Return the draws of all lines as one table; the column ``line`` holds the line's position."""
    parts = [
        pd.DataFrame(line.draws, columns=list(_DRAWS)).assign(line=index)
        for index, line in enumerate(lines)
        if len(line.draws)
    ]
    columns = [*_DRAWS, "line"]
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns, dtype=float)
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON types: NaN and infinities become None, enums their values."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_plain_json(path: Path, value: Any) -> None:
    """Write JSON atomically: NaN and infinities become null, enums their values."""
    write_json(path, _plain(value))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
