"""The CSV files of a run, and a list of them, so that the next run into the same folder can tell
them from what a person put there."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pandas as pd

from lossline.errors import UserError
from lossline.fits.files import aside

__all__ = ["LIST", "Outputs"]

LIST = "written.json"
_WHAT = "files written by reproduce.py, with their SHA-256"


class Outputs:
    """Files of one run in `folder`, which is made if need be.

    Files that an earlier run has listed are removed, because the new run may not write them all,
    and what is left of the old one would pass for its own; `removed` and `kept` name them. A file
    that has changed since, or that no run has listed, is a person's: it stays, under another name
    where the new run writes one of its name (`moved`: old name -> new). UserError where the list
    cannot be read or the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.written = folder, dict[str, str]()
        self.moved: dict[str, str] = {}
        earlier = _listed(folder / LIST)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot be a folder ({error.strerror}); choose another --out"
            ) from error
        there = {name: folder / name for name in earlier if (folder / name).is_file()}
        self.kept = [name for name, path in there.items() if _sha256(path) != earlier[name]]
        self.removed = [name for name in there if name not in self.kept]
        for name in self.removed:
            there[name].unlink()
        if earlier:
            (folder / LIST).unlink()

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Whole or not at all; an interrupted run has listed what it wrote."""
        partial = self.folder / f".{name}.partial"
        frame.to_csv(partial, index=False, float_format="%.6g")
        path = self.folder / name
        if name not in self.written and path.exists():
            self.moved[name] = path.rename(aside(path)).name
        self._list(name, _sha256(partial))
        os.replace(partial, path)

    def _list(self, name: str, digest: str) -> None:
        self.written[name] = digest
        partial = self.folder / f".{LIST}.partial"
        partial.write_text(json.dumps({"what": _WHAT, "files": self.written}, indent=1) + "\n")
        os.replace(partial, self.folder / LIST)


def _listed(path: Path) -> dict[str, str]:
    """What an earlier run says it wrote: names of files beside `path`, and their checksums."""
    if not path.exists():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["what"] == _WHAT and all(Path(name).name == name for name in tree["files"]):
            return dict(tree["files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is no list of files by reproduce.py: choose another --out")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
