"""Check paths and names of output that the user gives."""

from __future__ import annotations

import os
from pathlib import Path

from lossline.errors import UserError


def local_path(place: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a folder or file to write.

    Args:
        place: path as given.
        name: option that it was given for.

    Raises:
        UserError: it is a URL. ``pathlib`` would make a folder named ``gs:`` of it.
    """
    if "://" in os.fspath(place):
        raise UserError(
            f"{name} = {place}: is a URL, but results are written to a file system. Mount the "
            "bucket, or a network disk that all machines share, and give the folder there."
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
