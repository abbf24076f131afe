"""Check paths of output that the user gives."""

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
