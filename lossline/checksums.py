"""Sizes and checksums of the files of a folder.

On a disk, files are read and hashed with BLAKE2b. In a bucket, the server keeps a CRC-32C of every
object, so nothing is read. A folder that was copied between them keeps the checksums of its origin:
they say their own kind, and files are then read.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lossline.buckets import objects
from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.places import in_bucket

Checksum = tuple[int, str]
_CRC = "crc32c:"
_AT_ONCE = 4  # files that are read
_PIECE = 2**20  # bytes


def checksums(folder: Path, like: Mapping[str, Checksum] | None = None) -> dict[str, Checksum]:
    """Return the size and checksum of each file below a folder.

    Args:
        folder: folder, local or in a bucket.
        like: files to look at, with expected sizes and checksums, whose kinds are computed. None:
            all files.

    Returns:
        Name below the folder, with slashes -> size in bytes, and checksum. Absent files are left
        out.
    """
    there = _in_bucket(folder) if in_bucket(folder) else _on_disk(folder)
    names = sorted(there if like is None else there.keys() & like.keys())
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(
            lambda name: _checksum(
                folder / name, *there[name], "" if like is None else str(like[name][-1])
            ),
            names,
        )
        return dict(zip(names, found, strict=True))


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the name below a folder, with slashes -> size in bytes of each file."""
    there = _in_bucket(folder) if in_bucket(folder) else _on_disk(folder)
    return {name: there[name][0] for name in sorted(there)}


def _on_disk(folder: Path) -> dict[str, tuple[int, str]]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, "") for path in found}


def _in_bucket(folder: Path) -> dict[str, tuple[int, str]]:
    own = len(objects.split(f"{folder}/")[1])
    found = objects.objects(str(folder))
    return {item.name[own:]: (item.size, f"{_CRC}{item.crc32c}") for item in found}


def _checksum(path: Path, size: int, known: str, like: str) -> Checksum:
    """Return size and checksum of one file.

    Args:
        path: the file.
        size: its size.
        known: checksum that the server keeps; "" for a local file.
        like: a checksum of the kind to compute; "": the cheapest.
    """
    if known and (not like or like.startswith(_CRC)):
        return size, known
    if like.startswith(_CRC):
        return size, _CRC + base64.b64encode(_crc32c(path)).decode()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16))
    return size, digest.hexdigest()


def _crc32c(path: Path) -> bytes:
    try:
        import google_crc32c
    except ModuleNotFoundError:
        raise UserError(
            f"checksums of a folder from a bucket need the package google-crc32c; "
            f"{install_extra('buckets')}."
        ) from None
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            checksum.update(piece)
    return bytes(checksum.digest())
