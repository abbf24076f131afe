"""Folders that appear whole or not at all: built beside their place by one writer, then renamed."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossline.errors import UserError


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """The folder ``<path>.partial``, locked for one writer; what a killed writer left there stays.

    The caller fills it and renames it to ``path``. A lock dies with its process, so a killed writer
    leaves none.

    Raises:
        UserError: another process is at work there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    handle = _lock(partial, path)
    try:
        yield partial
    finally:
        if partial.is_dir() and not any(partial.iterdir()):
            partial.rmdir()
        os.close(handle)


def _lock(partial: Path, path: Path) -> int:
    while True:
        partial.mkdir(exist_ok=True)
        handle = os.open(partial, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise UserError(
                f"{path}: another process is making it; wait for it or choose another folder"
            ) from error
        # Another writer may have finished and renamed the folder between our opening and locking.
        if partial.is_dir() and os.path.samestat(os.fstat(handle), os.stat(partial)):
            return handle
        os.close(handle)
