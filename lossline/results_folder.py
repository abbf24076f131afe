"""Folders of results: written whole, replaced only by results of the same verb, user files kept."""

from __future__ import annotations

import dataclasses
import enum
import glob
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.files import building, building_anew, copy_file, write_json
from lossline.places import in_bucket


class FolderState(enum.Enum):
    """What exists at the output path."""

    FREE = "free"
    SAME = "same inputs"
    OTHER = "earlier results of other inputs"
    FOREIGN = "something else"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResultsFolder:
    """The kind of folder that a verb writes its results to.

    Attributes:
        verb: the verb, such as "fit".
    """

    verb: str

    @property
    def mark(self) -> str:
        """Name of the file in every such folder that holds the fingerprint of the inputs."""
        return f"{self.verb}.json"

    @property
    def what(self) -> str:
        """What the folder holds, in words."""
        return f"results of lossline.{self.verb}"

    def state(self, out: Path, fingerprint: str) -> FolderState:
        """Return what ``out`` holds: nothing, the same results, earlier ones, or something else.

        Args:
            out: output folder.
            fingerprint: fingerprint of the inputs of the new results.
        """
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return FolderState.FREE
        mark = out / self.mark
        if not mark.is_file():
            left = in_bucket(out) and (out / self._unfinished).is_file()
            return FolderState.FREE if left else FolderState.FOREIGN
        try:
            earlier = _read_json(mark)
        except ValueError:
            return FolderState.FOREIGN
        if not isinstance(earlier, dict) or earlier.get("what") != self.what:
            return FolderState.FOREIGN
        return FolderState.SAME if earlier.get("fingerprint") == fingerprint else FolderState.OTHER

    def is_up_to_date(self, out: Path, fingerprint: str, *, replace: bool) -> bool:
        """Return whether ``out`` has the results of these inputs already, with all their files.

        Args:
            out: output folder.
            fingerprint: fingerprint of the inputs.
            replace: whether results of other inputs may be replaced.

        Raises:
            UserError: ``out`` contains something else, or results that may not be replaced.
        """
        self.finish_replacement(out)
        state = self.state(out, fingerprint)
        if state is FolderState.FOREIGN:
            raise UserError(
                f"{out} is not empty and contains no {self.what}. Choose another --out."
            )
        if state is FolderState.OTHER and not replace:
            raise UserError(
                f"{out} contains the results of other inputs or of other code. Choose another "
                f"--out or add --replace."
            )
        return state is FolderState.SAME and all(
            (out / name).is_file() for name in self._own_files(out)
        )

    @contextmanager
    def writing(self, out: Path, fingerprint: str) -> Iterator[Path]:
        """Yield an empty folder to write results into; it becomes ``out`` when the block ends.

        Earlier results at ``out`` are replaced: the files that they list as their own are removed,
        files that a user added stay. If the block raises, ``out`` stays as it was.

        Raises:
            UserError: another process is writing there, or something else has been put there since
                the start.
        """
        out = out.resolve()  # "." has no sibling, and a symbolic link is to stay one
        if in_bucket(out):
            with building(out), tempfile.TemporaryDirectory(prefix="lossline-") as folder:
                yield Path(folder)
                self._complete(Path(folder), out, fingerprint)
                self._upload(Path(folder), out)
            return
        with building_anew(out) as partial:
            yield partial
            self._complete(partial, out, fingerprint)
            if out.exists() and any(out.iterdir()):
                earlier = out.with_name(f".{out.name}.earlier-{os.getpid()}")
                os.rename(out, earlier)
                os.rename(partial, out)
                self._carry_over(earlier, out)
                shutil.rmtree(earlier)
            else:
                os.replace(partial, out)

    def _complete(self, partial: Path, out: Path, fingerprint: str) -> None:
        """Write the mark of the new results, if they may still be put at ``out``."""
        if self.state(out, fingerprint) is FolderState.FOREIGN:
            raise UserError(
                f"{out}: something else was put there meanwhile. Run lossline.{self.verb} "
                "again with another --out."
            )
        files = sorted(path.relative_to(partial).as_posix() for path in _files(partial))
        mark = {"fingerprint": fingerprint, "what": self.what, "files": [self.mark, *files]}
        write_json(partial / self.mark, mark)

    @property
    def _unfinished(self) -> str:
        """Name of the object that lists what an interrupted upload may have left."""
        return f".{self.mark}.unfinished"

    def _upload(self, partial: Path, out: Path) -> None:
        """Replace the results at ``out`` in a bucket; the mark goes first and comes last.

        A bucket renames nothing, so for the seconds of the upload no results are there.
        """
        mark, unfinished = out / self.mark, out / self._unfinished
        earlier = {
            name
            for file in (mark, unfinished)
            if file.is_file()
            for name in _read_json(file)["files"]
        }
        new = {path.relative_to(partial).as_posix() for path in _files(partial)}
        write_json(unfinished, {"what": self.what, "files": sorted(earlier | new)})
        mark.unlink(missing_ok=True)
        for name in sorted(earlier - new - {self.mark}):
            (out / name).unlink(missing_ok=True)
        for name in sorted(new - {self.mark}):
            if name not in earlier and (out / name).is_file():  # of a user
                copy_file(out / name, aside(out / name))
            copy_file(partial / name, out / name)
        copy_file(partial / self.mark, mark)
        unfinished.unlink()

    def finish_replacement(self, out: Path) -> None:
        """Finish what a process killed during the replacement of earlier results left.

        The earlier results then lie in a hidden folder next to ``out``. They are put back if
        ``out`` is missing; otherwise the files that a user added to them move to ``out``.

        Raises:
            UserError: another process is writing there.
        """
        out = out.resolve()
        if in_bucket(out):  # `state` knows an interrupted upload
            return
        if not (left := sorted(out.parent.glob(f".{glob.escape(out.name)}.earlier-*"))):
            return
        with building(out):
            for earlier in left:
                if not out.exists():
                    os.rename(earlier, out)
                elif (earlier / self.mark).is_file():
                    self._carry_over(earlier, out)
                    shutil.rmtree(earlier)

    def _carry_over(self, earlier: Path, out: Path) -> None:
        """Move the files that earlier results have not listed as their own to ``out``.

        A file whose name the new results have taken gets a suffix.
        """
        listed = self._own_files(earlier)
        if not listed:  # all files are its own
            return
        names = [path.relative_to(earlier) for path in _files(earlier)]
        names = [name for name in names if name.as_posix() not in listed]
        for name in sorted(names, key=lambda name: (out / name).exists()):  # clashing names last
            place = out / name
            place.parent.mkdir(parents=True, exist_ok=True)
            os.rename(earlier / name, aside(place) if place.exists() else place)

    def _own_files(self, folder: Path) -> list[str]:
        """Return the files that results list as their own; an old version made no list."""
        return _read_json(folder / self.mark).get("files") or []


def _files(folder: Path) -> list[Path]:
    """Return all files below a folder, symbolic links included."""
    return [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]


def aside(path: Path) -> Path:
    """Return the first free name next to ``path``, ending in .earlier, .earlier1, …"""
    names = (path.with_name(f"{path.name}.earlier{n or ''}") for n in itertools.count())
    return next(name for name in names if not name.exists())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
