"""Errors of the file system that the user can fix, in one line."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

from lossline.buckets import objects

# Errors of the file system that the user can fix, and how.
_PLACES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free space there, or choose another path."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a path that you may write."),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "Choose another path."
    ),
    errno.ENAMETOOLONG: "Choose a shorter name.",
}


def refusal_of_a_place(error: Exception) -> str | None:
    """Return the message for a file-system error that the user can fix; None for other errors.

    C++ and Rust libraries give the number of the system's error only in their text.
    """
    if (of_a_bucket := objects.refusal(error)) is not None:
        return of_a_bucket
    if isinstance(error, OSError):
        number, where = error.errno, error.filename
    else:
        text = " ".join([str(error), *getattr(error, "__notes__", ())])
        told = re.search(r"os error (\d+)|os_error_code='(\d+)'", text)
        number = int(told[1] or told[2]) if told else None
        found = re.search(r'local file "([^"]+)"', text)
        where = found[1] if found else None
    if number == errno.ENOENT and where and _takes_nothing_new(Path(os.fsdecode(where)).parent):
        return f"{where}: no file or folder can be made there. Choose another path."
    if number not in _PLACES:
        return None
    return f"{f'{where}: ' if where else ''}{os.strerror(number)}. {_PLACES[number]}"


def _takes_nothing_new(folder: Path) -> bool:
    """Return whether a folder is like /proc, where creating a file gives "no such file"."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError:
        return folder.is_dir()
