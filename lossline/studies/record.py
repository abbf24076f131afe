"""Records of a study's finished steps and submitted jobs, and the lock against a second process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.files import locked, write_json
from lossline.places import to_path

SLURM, LOCAL = "slurm", "local"  # where jobs are submitted


class StudyRecord:
    """Finished steps, each with a hash of everything that it depends on.

    Raises:
        UserError: the file is not as this class writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._done: dict[str, str] = dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._done = {}
        except (ValueError, TypeError):
            raise UserError(
                f"{path} is damaged. Delete it; finished steps are recognized again."
            ) from None

    def holds(self, step: str, key: str) -> bool:
        """Return whether a step is finished with this key."""
        return self._done.get(step) == key

    def note(self, step: str, key: str) -> None:
        """Record a finished step; the file is replaced atomically."""
        self._done[step] = key
        write_json(self._path, self._done)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job that was submitted for a run.

    Attributes:
        on: ``SLURM`` or ``LOCAL``.
        job: id of the job, such as ``123_4``.
        time: seconds since 1970.
    """

    on: str
    job: str
    time: float

    def __post_init__(self) -> None:
        if not (isinstance(self.job, str) and isinstance(self.time, (int, float))):
            raise TypeError(f"job {self.job!r} at {self.time!r}")


class SubmissionRecord:
    """The newest submission of every run, in ``submitted.json`` of the study.

    Args:
        folder: folder of the study.

    Raises:
        UserError: the file is not as this class writes it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "submitted.json"
        try:
            tree = json.loads(self._path.read_text(encoding="utf-8"))
            self.of_run = {run: Submission(**item) for run, item in tree.items()}
        except FileNotFoundError:
            self.of_run = {}
        except (ValueError, TypeError, AttributeError):
            raise UserError(
                f"{self._path} is damaged. Delete it when no job of the study is queued or running."
            ) from None

    def note(self, submissions: Mapping[str, Submission]) -> None:
        """Add submissions by name of the run; the file is replaced atomically."""
        self.of_run.update(submissions)
        write_json(self._path, {run: asdict(item) for run, item in self.of_run.items()})


def content_key(values: Any, files: Sequence[str | Path]) -> str:
    """Return the SHA-256 (hex) of JSON-able values and of the contents of files."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in files:
        digest.update(hashlib.sha256(to_path(path).read_bytes()).digest())
    return digest.hexdigest()


def single(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of the study in ``folder``.

    Raises:
        UserError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return locked(folder / "lock", partial(_already_running, folder))


def _already_running(folder: Path, owner: str) -> str:
    return f"{folder}: process {owner} already works on this study. Wait for it or stop it."
