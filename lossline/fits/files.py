"""Results of a fit as files: Parquet and JSON, written atomically, and read back."""

from __future__ import annotations

import dataclasses
import enum
import glob
import itertools
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossline import tables
from lossline.attribution.results import Attribution
from lossline.errors import UserError
from lossline.files import building, building_anew, write_json
from lossline.fits.results import ComputeLawFit, TableFit
from lossline.laws.results import FitStatus
from lossline.lines.calibration import Calibration
from lossline.lines.estimators import PARAMETERS
from lossline.lines.fitting import Irreducible, Line, LineKind
from lossline.tables.pairing import Pairing

# File in every folder that a fit has written; holds the fingerprint of its inputs.
MARK = "fit.json"
_WHAT = "results of lossline.fit"
_FRAMES = ("heldout", "excluded")
_DRAWS = PARAMETERS


class FolderState(enum.Enum):
    """What exists at the output path."""

    FREE = "free"
    SAME = "same inputs"
    OTHER = "earlier fit of other inputs"
    FOREIGN = "something else"


def folder_state(out: Path, fingerprint: str) -> FolderState:
    """Return what ``out`` holds: nothing, the same fit, an earlier fit, or something else.

    Args:
        out: output folder.
        fingerprint: fingerprint of the inputs of the new fit.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return FolderState.FREE
    mark = out / MARK
    if not mark.is_file():
        return FolderState.FOREIGN
    try:
        earlier = _read_json(mark)
    except ValueError:
        return FolderState.FOREIGN
    if not isinstance(earlier, dict) or earlier.get("what") != _WHAT:
        return FolderState.FOREIGN
    return FolderState.SAME if earlier.get("fingerprint") == fingerprint else FolderState.OTHER


@contextmanager
def writing_fit(out: Path, fingerprint: str) -> Iterator[Path]:
    """Yield an empty folder to write a fit into; it becomes ``out`` when the block ends.

    An earlier fit at ``out`` is replaced: the files it lists as its own are removed, files that a
    user added stay. If the block raises, ``out`` stays as it was.

    Raises:
        UserError: another process is writing a fit there, or something else has been put there
            since the start.
    """
    out = out.resolve()  # "." has no sibling, and a symbolic link is to stay one
    with building_anew(out) as partial:
        yield partial
        if folder_state(out, fingerprint) is FolderState.FOREIGN:
            raise UserError(
                f"{out}: something else was put there during the fit. Fit again with another --out."
            )
        files = sorted(path.relative_to(partial).as_posix() for path in _files(partial))
        write_json(
            partial / MARK, {"fingerprint": fingerprint, "what": _WHAT, "files": [MARK, *files]}
        )
        if out.exists() and any(out.iterdir()):
            earlier = out.with_name(f".{out.name}.earlier-{os.getpid()}")
            os.rename(out, earlier)
            os.rename(partial, out)
            _carry_over(earlier, out)
            shutil.rmtree(earlier)
        else:
            os.replace(partial, out)


def finish_replacement(out: Path) -> None:
    """Finish what a fit killed during the replacement of an earlier one left.

    The earlier fit then lies in a hidden folder next to ``out``. It is put back if ``out`` is
    missing; otherwise the files that a user added to it move to ``out``.

    Raises:
        UserError: another process is writing a fit there.
    """
    out = out.resolve()
    if not (left := sorted(out.parent.glob(f".{glob.escape(out.name)}.earlier-*"))):
        return
    with building(out):
        for earlier in left:
            if not out.exists():
                os.rename(earlier, out)
            elif (earlier / MARK).is_file():
                _carry_over(earlier, out)
                shutil.rmtree(earlier)


def _files(folder: Path) -> list[Path]:
    """Return all files below a folder, symbolic links included."""
    return [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]


def _carry_over(earlier: Path, out: Path) -> None:
    """Move the files that an earlier fit has not listed as its own from ``earlier`` to ``out``.

    A file whose name the new fit has taken gets a suffix.
    """
    listed = _read_json(earlier / MARK).get("files")
    if listed is None:  # an old version made no list: all files are its own
        return
    names = [path.relative_to(earlier) for path in _files(earlier)]
    names = [name for name in names if name.as_posix() not in listed]
    for name in sorted(names, key=lambda name: (out / name).exists()):  # clashing names last
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(earlier / name, aside(place) if place.exists() else place)


def aside(path: Path) -> Path:
    """Return the first free name next to ``path``, ending in .earlier, .earlier1, …"""
    names = (path.with_name(f"{path.name}.earlier{n or ''}") for n in itertools.count())
    return next(name for name in names if not name.exists())


def save_results(results: TableFit, folder: Path) -> None:
    """Write all parts of the results into ``folder``."""
    tables.write(results.table, folder / "losses.parquet")
    lines = [line.to_dict() for line in results.lines]
    _write_json(folder / "lines.json", lines)
    _flat(lines).to_parquet(folder / "lines.parquet", index=False)
    _draws(results.lines).to_parquet(folder / "line_draws.parquet", index=False)
    laws = [_plain(dataclasses.asdict(law)) for law in results.compute_laws]
    _write_json(folder / "compute_laws.json", laws)
    _flat(laws).to_parquet(folder / "compute_laws.parquet", index=False)
    _write_json(folder / "attribution.json", results.attribution.to_dict())
    results.attribution.effects().to_parquet(folder / "attribution.parquet", index=False)
    results.attribution.contrasts.to_parquet(folder / "contrasts.parquet", index=False)
    for name in _FRAMES:
        frame = getattr(results, name)
        frame.astype({c: "string" for c in frame.columns if frame[c].dtype == object}).to_parquet(
            folder / f"{name}.parquet", index=False
        )
    _write_json(folder / "excluded.json", _plain(results.excluded.to_dict("records")))
    _write_json(
        folder / "settings.json", {"settings": results.settings, "provenance": results.provenance}
    )


def load_results(path: str | os.PathLike[str]) -> TableFit:
    """Read the results that ``python -m lossline.fit`` has written to a folder.

    Raises:
        UserError: the folder holds no results, or results of a version with other fields.
    """
    folder = Path(path)
    if not (folder / MARK).is_file():
        raise UserError(
            f"{folder}: holds no results of lossline.fit (no {MARK}). Run python -m lossline.fit "
            f"with --out={folder}, or give another path."
        )
    try:
        return _results_in(folder)
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
    earlier = fields.pop("doubt", None)  # its name before 2026-11-28
    fields["calibration"] = Calibration(**(tree["calibration"] if earlier is None else earlier))
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


def _write_json(path: Path, value: Any) -> None:
    write_json(path, _plain(value))


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
