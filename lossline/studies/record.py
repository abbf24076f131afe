"""What a study has done: a small JSON note per step, and the lock that keeps a second study out."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lossline.errors import UserError


class StudyRecord:
    """Steps that are done, each with a key of everything it depended on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._done: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            self._done = {}
        except ValueError:
            raise UserError(
                f"{path} is not JSON; remove it (finished steps will find that out again)"
            ) from None

    def holds(self, step: str, key: str) -> bool:
        return self._done.get(step) == key

    def note(self, step: str, key: str) -> None:
        """Adds a step; the file is replaced in one move."""
        self._done[step] = key
        partial = self._path.with_suffix(".json.partial")
        partial.write_text(json.dumps(self._done, indent=1) + "\n", encoding="utf-8")
        os.replace(partial, self._path)


def content_key(values: Any, files: Sequence[str | Path]) -> str:
    """SHA-256 (hex) of JSON-able values and of the contents of files."""
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path in files:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()


@contextmanager
def single(folder: Path) -> Iterator[None]:
    """Holds the study's lock; the kernel lets go of it when the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            raise UserError(
                f"{folder}: process {owner} already works on this study; wait for it or stop it"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
