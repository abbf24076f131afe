"""Read files from the archives of packages; nothing is unpacked to disk or executed.

Wheels (zip), source archives and npm tarballs (tar), and Debian files (ar with a tar inside).
"""

from __future__ import annotations

import fnmatch
import io
import lzma
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

from lossline.errors import UserError

_AR_MAGIC = b"!<arch>\n"
_AR_HEADER = 60  # bytes before the contents of each member
_DATA = "data.tar"  # member of a Debian file that contains the installed files


def members(archive: Path, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of every file in an archive whose name matches a pattern.

    Files of a wheel are sorted by name; files of a tar and of a Debian file keep their order.

    Args:
        archive: a zip file, a tar file (plain, gzip, bzip2, xz) or a Debian file.
        patterns: shell patterns of full names, such as ``*.py``.

    Raises:
        UserError: the archive is damaged or of another kind.
    """
    try:
        yield from _members(archive, patterns)
    except (EOFError, OSError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError) as error:
        raise UserError(
            f"{archive}: cannot be read ({error}). Delete it and gather again."
        ) from error


def _members(archive: Path, patterns: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                if _matches(name, patterns):
                    yield name, opened.read(name)
        return
    with _opened_tar(archive) as opened:
        for info in opened:
            if info.isfile() and _matches(info.name, patterns):
                file = opened.extractfile(info)
                assert file is not None
                yield info.name, file.read()


def member(archive: Path, pattern: str) -> bytes:
    """Return the contents of the first file that matches ``pattern``.

    Raises:
        UserError: no file matches.
    """
    for _, data in members(archive, pattern):
        return data
    raise UserError(f"{archive}: contains no {pattern}. Use the pinned version of the package.")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def _opened_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            file.seek(0)
            with tarfile.open(fileobj=file) as opened:
                yield opened
            return
        name, data = _debian_data(file, archive)
        mode: Literal["r|", "r|*"] = "r|*"
        if name.endswith(".zst"):  # not known to tarfile
            import pyarrow

            data, mode = pyarrow.input_stream(data, compression="zstd"), "r|"
        with tarfile.open(fileobj=data, mode=mode) as opened:
            yield opened


def _debian_data(file: IO[bytes], archive: Path) -> tuple[str, IO[bytes]]:
    """Return name and contents of ``data.tar.*`` in an ar archive; see ``man 5 ar``."""
    while len(header := file.read(_AR_HEADER)) == _AR_HEADER:
        name, size = header[:16].decode("ascii").strip(" /"), int(header[48:58])
        if name.startswith(_DATA):
            data = file.read(size)
            if len(data) < size:
                raise EOFError(f"{name} ends after {len(data)} of {size} bytes")
            return name, io.BytesIO(data)
        file.seek(size + size % 2, io.SEEK_CUR)
    raise UserError(f"{archive}: contains no {_DATA}. Delete it and gather again.")
