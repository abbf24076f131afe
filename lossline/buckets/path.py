"""Paths at ``gs://``, with the methods of ``pathlib.Path`` that lossline uses.

etils.epath gives the names (parents, suffixes, joining) and the type that Orbax knows. Access is
our own, because epath's ``exists`` says "no" when a server fails, its open files keep what was
written when the writer fails, and its listings may be old.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, Self

from etils.epath.gpath import PosixGPath

from lossline.buckets import lease, objects

_AT_ONCE = 16  # copies
_IN_MEMORY = 8 * 2**20  # bytes; a larger object is read in parts of this size


class BucketPath(PosixGPath):
    """A path ``gs://bucket/…``. A folder is what has an object below it; it needs no making."""

    def exists(self) -> bool:
        """Return whether an object or a folder of this name exists."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Return whether an object of this name exists."""
        return objects.facts(str(self)) is not None

    def is_dir(self) -> bool:
        """Return whether any object lies below this name."""
        return objects.is_folder(str(self))

    def is_symlink(self) -> bool:
        """Return False: a bucket has no links."""
        return False

    def resolve(self, strict: bool = False) -> Self:
        """Return the path itself."""
        return self

    def stat(self) -> os.stat_result:  # type: ignore[override]
        """Return size and time of an object, or a folder's mode.

        Raises:
            FileNotFoundError: neither exists.
        """
        found = objects.facts(str(self))
        if found is not None:
            when = int(found.updated)
            kind = stat.S_IFREG | 0o644
            return os.stat_result((kind, 0, 0, 1, 0, 0, found.size, when, when, when))
        if not self.is_dir():
            raise FileNotFoundError(2, os.strerror(2), str(self))
        return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0))

    # --- reading ---------------------------------------------------------------------------------

    def iterdir(self) -> Iterator[Self]:
        """Yield the objects and folders directly below; none if there is no such folder."""
        found = objects.children(str(self))
        names = [*(item.name for item in found.objects), *found.folders]
        for name in sorted(dict.fromkeys(names)):
            yield self / name.rpartition("/")[2]

    def glob(self, pattern: str) -> Iterator[Self]:
        """Yield what matches ``pattern``, such as ``*/config.json``."""
        first, _, rest = pattern.partition("/")
        if not any(mark in first for mark in "*?["):
            found = self / first
            if rest:
                yield from found.glob(rest)
            elif found.exists():
                yield found
            return
        for item in self.iterdir():
            if fnmatch.fnmatchcase(item.name, first):
                if rest:
                    yield from item.glob(rest)
                else:
                    yield item

    def rglob(self, pattern: str) -> Iterator[Self]:
        """Yield the objects below, at any depth, whose last name matches."""
        own = len(objects.split(str(self))[1])
        for item in objects.objects(str(self)):
            if fnmatch.fnmatchcase(item.name.rpartition("/")[2], pattern):
                yield self / item.name[own:].lstrip("/")

    def read_bytes(self) -> bytes:
        """Return the content of the object."""
        return objects.read(str(self))

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the content of the object, decoded."""
        content = self.read_bytes().decode(encoding or "utf-8", errors or "strict")
        return io.IncrementalNewlineDecoder(None, translate=True).decode(content, final=True)

    def open(  # type: ignore[override]
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """Open the object to read, or to write it whole.

        What is written appears when the file is closed without an error; if the block of a
        ``with`` statement raises, nothing is written.

        Raises:
            FileNotFoundError: it does not exist and is to be read.
            FileExistsError: it exists and the mode is "x".
        """
        text = "b" not in mode
        kind = mode.replace("b", "").replace("t", "")
        raw: Any
        if kind == "r":
            raw = self._opened()
        elif kind in ("w", "x"):
            if kind == "x" and self.is_file():
                raise FileExistsError(17, os.strerror(17), str(self))
            raw = _Upload(str(self), only_new=kind == "x")
        else:
            raise ValueError(f"{self}: an object of a bucket cannot be opened with mode {mode!r}")
        if not text:
            return raw  # type: ignore[no-any-return]
        return _Text(raw, encoding=encoding or "utf-8", errors=errors, newline=newline)

    def _opened(self) -> IO[bytes]:
        found = objects.facts(str(self))
        if found is None or found.size <= _IN_MEMORY:
            return io.BytesIO(self.read_bytes())
        return io.BufferedReader(_Parts(str(self), found), _IN_MEMORY)

    # --- writing ---------------------------------------------------------------------------------

    def write_bytes(self, data: Any) -> int:
        """Write the object whole."""
        content = bytes(data)
        lease.confirm(str(self))
        objects.write(str(self), content)
        return len(content)

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Write the object whole, as text."""
        self.write_bytes(data.encode(encoding or "utf-8", errors or "strict"))
        return len(data)

    def upload(self, file: str | os.PathLike[str]) -> None:
        """Write the object whole, from a local file."""
        lease.confirm(str(self))
        objects.upload(os.fspath(file), str(self))

    def copy_of(self, source: os.PathLike[str]) -> None:
        """Write the object as a copy of another one, inside the storage."""
        lease.confirm(str(self))
        objects.copy(os.fspath(source), str(self))

    def move(self, target: Self, *, last: str = "") -> None:
        """Move the objects below to ``target``, by copies inside the storage.

        Args:
            target: new name of the folder; objects there are replaced.
            last: name of the object that marks the folder as complete: copied last, removed first.
        """
        lease.confirm(f"{target}/")
        found = [path for path in self.rglob("*") if path != self / last]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            sources = [str(path) for path in found]
            list(
                pool.map(objects.copy, sources, [str(target / p.relative_to(self)) for p in found])
            )
        if last:
            lease.confirm(f"{target}/")
            objects.copy(str(self / last), str(target / last))
            (self / last).unlink()
        objects.delete_all(sources)

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """Make an empty object if none exists."""
        lease.confirm(str(self))
        with contextlib.suppress(objects.Changed):
            objects.write(str(self), b"", if_generation=0)
            return
        if not exist_ok:
            raise FileExistsError(17, os.strerror(17), str(self))

    def mkdir(self, mode: int | None = None, parents: bool = False, exist_ok: bool = False) -> None:
        """Make nothing: a folder appears with its first object.

        Raises:
            FileExistsError: it exists, and ``exist_ok`` is False.
        """
        if not exist_ok and self.exists():
            raise FileExistsError(17, os.strerror(17), str(self))

    def rmdir(self) -> None:
        """Remove nothing: a folder without objects does not exist.

        Raises:
            OSError: it has objects.
        """
        if self.is_dir():
            raise OSError(39, os.strerror(39), str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the object."""
        lease.confirm(str(self))
        if not objects.delete(str(self)) and not missing_ok:
            raise FileNotFoundError(2, os.strerror(2), str(self))

    def rmtree(self, missing_ok: bool = False) -> None:
        """Delete all objects below."""
        lease.confirm(f"{self}/")
        bucket, _ = objects.split(str(self))
        names = [item.name for item in objects.objects(str(self))]
        if not names and not missing_ok:
            raise FileNotFoundError(2, os.strerror(2), str(self))
        objects.delete_all(f"{objects.SCHEME}{bucket}/{name}" for name in names)

    def rename(self, target: Any) -> Self:
        """Refuse: a bucket renames nothing at once. Use ``lossline.files.move``."""
        raise OSError(95, os.strerror(95), str(self))

    replace = rename


class _Parts(io.RawIOBase):
    """A large object, read in parts, all of one version."""

    def __init__(self, url: str, found: objects.ObjectFacts) -> None:
        super().__init__()
        self._url, self._found, self._place = url, found, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._place = offset + (0, self._place, self._found.size)[whence]
        return self._place

    def readinto(self, buffer: Any, /) -> int:
        end = min(self._place + len(buffer), self._found.size)
        if end <= self._place:
            return 0
        found = self._found
        part = objects.read(self._url, generation=found.generation, part=(self._place, end))
        buffer[: len(part)] = part
        self._place += len(part)
        return len(part)


class _Upload(io.RawIOBase):
    """A local file that becomes an object when it is closed without an error."""

    def __init__(self, url: str, *, only_new: bool) -> None:
        super().__init__()
        self._url, self._only_new = url, only_new
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        self._failed = False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        return self._file.write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def discard(self) -> None:
        """Write nothing when the file is closed."""
        self._failed = True

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:  # an abandoned file was not completed
        self.discard()
        self.close()

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._file.flush()
            if not self._failed:
                self._send()
        finally:
            super().close()
            self._file.close()

    def _send(self) -> None:
        lease.confirm(self._url)
        if not self._only_new:
            objects.upload(self._file.name, self._url)
            return
        self._file.seek(0)
        try:
            objects.write(self._url, self._file.read(), if_generation=0)
        except objects.Changed:
            raise FileExistsError(17, os.strerror(17), self._url) from None


class _Text(io.TextIOWrapper):
    """Text over an ``_Upload``: a failed block writes nothing."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            self._discard()
        self.close()

    def __del__(self) -> None:
        self._discard()
        self.close()

    def _discard(self) -> None:
        if not self.closed and isinstance(self.buffer, _Upload):
            self.buffer.discard()
