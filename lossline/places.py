"""Places that a person names for something to be written there."""

from __future__ import annotations

import os
from pathlib import Path

from lossline.errors import UserError


def local_path(place: str | os.PathLike[str], name: str) -> Path:
    """A folder or file to write, as a path.

    Args:
        place: what was given.
        name: the option it was given for.

    Raises:
        UserError: a URL, which `pathlib` takes for a folder of the name ``gs:``.
    """
    if "://" in os.fspath(place):
        raise UserError(
            f"{name} = {place}: is a URL, and results are written to file systems; mount the "
            "bucket (or a network disk that all machines see) and name the folder there"
        )
    return Path(place)
