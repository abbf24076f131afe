"""CSV files of a run, with a list of them, so that the next run can remove them and no others."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pandas as pd

from lossline.errors import UserError
from lossline.results_folder import aside

LIST = "written.json"


class Outputs:
    """Files of one run in a folder, which is created if needed.

    Files that an earlier run has listed are removed: the new run may not write them all, and old
    ones would look like its own. A file that changed since, or that no run has listed, belongs to
    the user. It stays, under another name if the new run writes one of its name.

    Args:
        folder: the folder.
        program: name of the program. Another program's list and files are left alone.

    Attributes:
        folder: the folder.
        written: files written by this run, with their SHA-256.
        kept: files of an earlier run that stay, because they have changed.
        removed: files of an earlier run that were removed.
        moved: old name -> new name of the user's files that had to make room.

    Raises:
        UserError: the list cannot be read, or the folder cannot be made.
    """

    def __init__(self, folder: Path, program: str = "reproduce") -> None:
        self.folder, self.written = folder, dict[str, str]()
        self.list = folder / (LIST if program == "reproduce" else f"{program}_{LIST}")
        self.what = f"files written by {program}.py, with their SHA-256"
        self.moved: dict[str, str] = {}
        earlier = _listed(self.list, self.what)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{folder}: cannot make this folder ({error.strerror}). Choose another --out."
            ) from error
        there = {name: folder / name for name in earlier if (folder / name).is_file()}
        self.kept = [name for name, path in there.items() if _sha256(path) != earlier[name]]
        self.removed = [name for name in there if name not in self.kept]
        for name in self.removed:
            there[name].unlink()
        if earlier:
            self.list.unlink()

    def write(self, frame: pd.DataFrame, name: str) -> None:
        """Write a table atomically; the list names it first, also for an interrupted run."""
        partial = self.folder / f".{name}.partial"
        frame.to_csv(partial, index=False, float_format="%.6g")
        path = self.folder / name
        if name not in self.written and path.exists():
            self.moved[name] = path.rename(aside(path)).name
        self._list(name, _sha256(partial))
        os.replace(partial, path)

    def _list(self, name: str, digest: str) -> None:
        self.written[name] = digest
        partial = self.folder / f".{self.list.name}.partial"
        partial.write_text(json.dumps({"what": self.what, "files": self.written}, indent=1) + "\n")
        os.replace(partial, self.list)


def _listed(path: Path, what: str) -> dict[str, str]:
    """Return the files that an earlier run has listed, with their checksums."""
    if not path.exists():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["what"] == what and all(Path(name).name == name for name in tree["files"]):
            return dict(tree["files"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path}: not a list of {what}. Choose another --out.")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
