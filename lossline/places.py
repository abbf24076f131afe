"""Turn what the user gives into paths, and check names of output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from lossline.errors import UserError


def to_path(place: str | os.PathLike[str], name: str = "") -> Path:
    """Return the path of a file or folder, local or in a bucket.

    Args:
        place: path as given.
        name: option that it was given for, for messages.

    Returns:
        A ``pathlib.Path`` of a local path. For ``gs://…`` a ``lossline.buckets.path.BucketPath``,
        which has the same methods; the annotation says ``Path`` so that callers need no second
        type. ``lossline.files`` writes to both.

    Raises:
        UserError: it is another URL, or gcsfs is not installed.
    """
    text = os.fspath(place)
    if "://" not in text:
        if text.startswith("gs:/"):  # it would become a local folder with the name "gs:"
            given = f"{name} = {text}" if name else text
            raise UserError(
                f"{given}: a bucket is written with two slashes. Give gs://bucket/folder."
            )
        return Path(place)
    what = f"{name} = {text}" if name else text
    scheme, _, rest = text.partition("://")
    if scheme != "gs":
        raise UserError(
            f"{what}: {scheme}:// is not supported. Use a bucket at gs://, or mount that storage "
            "and give the folder."
        )
    if not rest.partition("/")[0]:
        raise UserError(f"{what}: names no bucket. Give gs://bucket/folder.")
    from lossline.buckets.objects import file_system
    from lossline.buckets.path import BucketPath

    file_system()  # says now which package is missing
    return cast(Path, BucketPath(text))


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is in a bucket."""
    return os.fspath(path).startswith("gs://")


def local_path(place: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a folder or file that cannot be in a bucket.

    Args:
        place: path as given.
        name: option that it was given for.

    Raises:
        UserError: it is a URL. Text is gathered and read by libraries that know only files.
    """
    if "://" in os.fspath(place):
        raise UserError(
            f"{name} = {place}: is a URL, but this is read and written as files. Mount the bucket, "
            "or a network disk that all machines share, and give the folder there."
        )
    return Path(place)


# With a prefix and a suffix, a name of a file is below the limit of file systems, 255 bytes.
_LONGEST = 200


def check_folder_name(name: str, option: str) -> None:
    """Check that a name can name a folder of results.

    Args:
        name: name as given.
        option: option that it was given for.

    Raises:
        UserError: it is empty or too long, has a slash or a character that cannot be printed, or
            starts with a dot, or starts or ends with a space.
    """
    if not name:
        raise UserError(f"{option} is empty. Give a name.")
    if len(name.encode(errors="replace")) > _LONGEST:
        raise UserError(
            f"{option} = {name[:20]!r}…: is too long for the name of a folder. Give at most "
            f"{_LONGEST} bytes."
        )
    if "/" in name or name.startswith(".") or not name.isprintable() or name != name.strip():
        raise UserError(
            f"{option} = {name!r}: cannot name a folder. Use no slash, no line break, no dot at "
            "the start, and no space at either end."
        )
