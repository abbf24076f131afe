"""Record of a study's finished steps, and the lock that excludes a second process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.files import locked, write_json


class StudyRecord:
    """Finished steps, each with a hash of everything that it depends on.

    Raises:
        UserError: the file is not JSON.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._done: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._done = {}
        except ValueError:
            raise UserError(
                f"{path} is not JSON. Delete it; finished steps are recognized again."
            ) from None

    def holds(self, step: str, key: str) -> bool:
        """Return whether a step is finished with this key."""
        return self._done.get(step) == key

    def note(self, step: str, key: str) -> None:
        """Record a finished step; the file is replaced atomically."""
        self._done[step] = key
        write_json(self._path, self._done)


def content_key(values: Any, files: Sequence[str | Path]) -> str:
    """Return the SHA-256 (hex) of JSON-able values and of the contents of files."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in files:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
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
