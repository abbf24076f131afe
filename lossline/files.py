"""Write files and folders atomically, and lock them for one writer, on disks and in buckets.

A reader sees the old contents or the new ones, never half of them. On a disk, a lock belongs to a
process and ends with it, however it ends, so no stale lock is ever left behind. In a bucket, a lock
is an object that its holder renews (``lossline.buckets.lease``).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from lossline.buckets import lease
from lossline.errors import UserError
from lossline.places import in_bucket

if TYPE_CHECKING:
    from lossline.buckets.path import BucketPath

_PIECE = 2**20  # bytes that are copied at once


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` to write to; it replaces ``path`` when the block ends.

    If the block raises, the temporary file is removed and ``path`` keeps its contents. An error of
    the file system names ``path``, not the temporary file. If ``path`` is a symbolic link, the file
    that it points to is replaced.

    For a path in a bucket, the temporary file is local, and is uploaded when the block ends.
    """
    if bucket := _in_bucket(path):
        with tempfile.TemporaryDirectory(prefix="lossline-") as folder:
            partial = Path(folder) / path.name
            yield partial
            bucket.upload(partial)
        return
    target = Path(os.path.realpath(path))
    # Cut the name: the longest name that a file system takes must leave room for the rest.
    partial = target.with_name(f".{target.name[:50]}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(partial), partial):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically."""
    if bucket := _in_bucket(path):
        bucket.write_bytes(content)
        return
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_json(path: Path, tree: Any, *, indent: int = 1) -> None:
    """Write readable JSON atomically.

    Raises:
        ValueError: a number is NaN or infinite, which JSON cannot hold.
    """
    text = json.dumps(tree, indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


@contextlib.contextmanager
def building(path: Path) -> Iterator[Path]:
    """Yield the folder ``<path>.partial``, locked for one writer.

    The caller fills it and moves it to ``path`` (``publish``). Files of an interrupted writer stay
    in the folder, so the next writer can resume.

    Raises:
        UserError: another process is writing there.
    """
    with _locked_folder(path.with_name(f"{path.name}.partial"), path) as partial:
        for unfinished in partial.glob(".*.partial"):  # of ``replacing`` in a killed writer
            unfinished.unlink()
        yield partial


@contextlib.contextmanager
def building_anew(path: Path) -> Iterator[Path]:
    """Yield the hidden folder ``.<name>.partial`` beside ``path``, empty and locked.

    The caller moves it to ``path`` (``publish``) when it is complete. If the block raises, it is
    removed. The name is hidden because what is found there is deleted: a user's own
    ``<path>.partial`` stays.

    Raises:
        UserError: another process is writing there.
    """
    with _locked_folder(path.with_name(f".{path.name}.partial"), path) as partial:
        empty(partial)
        try:
            yield partial
        except BaseException:
            empty(partial)
            raise


@contextlib.contextmanager
def working(path: Path) -> Iterator[Path]:
    """Yield the hidden folder ``.<name>.work`` beside ``path``, locked for one writer.

    It is for files of the work on ``path``, never read as results. Files of an interrupted writer
    stay in it, so the next one can resume; the caller empties it (``empty``) when it is done.

    Raises:
        UserError: another process is writing there.
    """
    place = path.resolve()  # "." has no sibling
    work = place.with_name(f".{place.name}.work")
    if _in_bucket(work):
        lock = work.with_name(f"{work.name}.lock")
        with lease.held(str(lock), (str(work),), lambda _: _being_written(path), _say):
            yield work
        return
    with _locked_folder(work, place) as folder:
        for unfinished in folder.rglob(".*.partial"):  # of ``replacing`` in a killed writer
            unfinished.unlink()
        yield folder


class Appended(Protocol):
    """A binary file that grows."""

    def write(self, content: bytes, /) -> object:
        """Add ``content``."""

    def flush(self) -> None:
        """Hand what was added to the system; in a bucket, only if that was not done lately."""

    def sync(self) -> None:
        """Hand all that was added to the system, or to the bucket."""

    def close(self) -> None:
        """Do as ``sync``, and close the file."""


def appending(path: Path) -> Appended:
    """Open a file to add to its end."""
    if bucket := _in_bucket(path):
        from lossline.buckets.growing import GrowingObject

        return GrowingObject(bucket)
    return _LocalAppended(path)


class _LocalAppended:
    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        self.write, self.close = self._file.write, self._file.close
        self.flush = self.sync = self._file.flush


def publish(partial: Path, path: Path, *, mark: str) -> None:
    """Move a complete folder to its name; readers see all of it or nothing.

    Args:
        partial: folder of ``building`` or ``building_anew``.
        path: its name; must be free, or in a bucket hold an interrupted move of the same folder.
        mark: name of the file without which readers take the folder for absent. A bucket renames
            nothing at once: there, it is moved last.
    """
    if bucket := _in_bucket(partial):
        bucket.move(path, last=mark)  # type: ignore[arg-type]
    else:
        os.replace(partial, path)


@contextlib.contextmanager
def local_folder(path: Path, *, mark: str = "") -> Iterator[Path]:
    """Yield a folder of the file system for a library that writes only there.

    It is ``path`` itself, or for a path in a bucket a temporary folder, not made yet, whose files
    are uploaded when the block ends.

    Args:
        path: the folder.
        mark: name of the file without which readers take the folder for absent; uploaded last.
    """
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lossline-") as folder:
        local = Path(folder) / path.name
        yield local
        found = [file for file in local.rglob("*") if file.is_file()]
        for file in sorted(found, key=lambda file: (file == local / mark, file)):
            copy_file(file, path / file.relative_to(local).as_posix())


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a file or folder for a library that reads only the file system.

    It is ``path`` itself, or for a path in a bucket a temporary copy.
    """
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lossline-") as folder:
        copy = Path(folder) / path.name
        below = {file: copy / file.relative_to(path).as_posix() for file in path.rglob("*")}
        for file, target in (below or {path: copy}).items():
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(file, target)
        yield copy


def check_locks(folder: Path) -> None:
    """Check that this process still holds its lock on a folder in a bucket.

    ``lossline.files`` and paths in buckets check it themselves; call this before another library
    writes there.

    Raises:
        UserError: another process has taken the lock over.
    """
    if _in_bucket(folder):
        lease.confirm(f"{folder}/")


def is_published(path: Path, *, mark: str) -> bool:
    """Return whether something stands at ``path``; in a bucket, whether its mark does.

    Without the mark it is an interrupted ``publish``, which the next one completes.
    """
    return (path / mark).is_file() if in_bucket(path) else path.exists()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file atomically, from and to the file system or a bucket."""
    bucket = _in_bucket(target)
    if bucket and in_bucket(source):
        bucket.copy_of(source)
    elif bucket:
        bucket.upload(source)
    else:
        with replacing(target) as partial, source.open("rb") as file, partial.open("wb") as copy:
            shutil.copyfileobj(file, copy, _PIECE)


def move(folder: Path, target: Path) -> None:
    """Rename a folder, or move its objects in a bucket."""
    if bucket := _in_bucket(folder):
        bucket.move(target)  # type: ignore[arg-type]
    else:
        os.replace(folder, target)


def remove_folder(folder: Path) -> None:
    """Delete a folder and all below it."""
    if bucket := _in_bucket(folder):
        bucket.rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder)


def empty(folder: Path) -> None:
    """Delete all in a folder."""
    if bucket := _in_bucket(folder):
        bucket.rmtree(missing_ok=True)
        return
    for item in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()


@contextlib.contextmanager
def locked(path: Path, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold the lock file ``path`` while the block runs.

    Args:
        path: the lock file; made if absent, and never removed. In a bucket it is an object, which
            is removed; what lies in its folder is written only while it is held.
        refusal: makes the error message from the name of the owner ("12345 on host").

    Raises:
        UserError: another process holds the lock.
    """
    if _in_bucket(path):
        with lease.held(str(path), (str(path.parent),), refusal, _say):
            yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _lock(descriptor, fcntl.LOCK_EX, path):
            owner = path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
            raise UserError(refusal(owner))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Return whether a living process holds the lock file ``path``."""
    if _in_bucket(path):
        return lease.is_held(str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY)  # the file of another user may not be writable
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH, path)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int, path: Path) -> bool:
    """Lock an open file or folder without waiting; return whether it succeeded."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # Lustre without the mount option flock, some network file systems
        raise UserError(
            f"{path}: this file system cannot lock files ({error.strerror}). Use a folder on "
            "another file system."
        ) from error
    return True


@contextlib.contextmanager
def _locked_folder(partial: Path, path: Path) -> Iterator[Path]:
    if _in_bucket(path):
        lock = path.with_name(f".{path.name}.lock")
        with lease.held(str(lock), (str(partial), str(path)), lambda _: _being_written(path), _say):
            yield partial
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock_folder(partial, path)
    try:
        yield partial
    except OSError as error:
        if error.errno is not None:  # without a number, a name would hide the message
            error.filename = error.filename or str(path)  # a full disk has none
        raise
    finally:
        # After a rename, the next writer may already have made and locked a folder of this name.
        if _is_at(descriptor, partial) and not any(partial.iterdir()):
            partial.rmdir()
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open folder is the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _lock_folder(partial: Path, path: Path) -> int:
    while True:
        try:
            partial.mkdir(exist_ok=True)
        except FileNotFoundError:  # raised in pseudo file systems such as /proc
            raise UserError(f"{path}: no folder can be made there. Choose another path.") from None
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:  # its writer has renamed it just now
            continue
        try:
            if not _lock(descriptor, fcntl.LOCK_EX, partial):
                raise UserError(_being_written(path))
        except UserError:
            os.close(descriptor)
            raise
        # Another writer may have renamed the folder between our opening it and locking it.
        if _is_at(descriptor, partial):
            return descriptor
        os.close(descriptor)


def _being_written(path: Path) -> str:
    return f"{path}: another process is writing it. Wait for it or choose another folder."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _in_bucket(path: Path) -> BucketPath | None:
    """Return a path in a bucket as its own type; None for a local path."""
    return cast("BucketPath", path) if in_bucket(path) else None
