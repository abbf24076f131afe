"""Hash the source files of lossline, to compare the code of two machines.

The functions here are pickled by value, so that a worker whose lossline is older, or that has none,
can run them. Therefore each is made inside another function and imports what it needs itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def source_hasher() -> Callable[[], str]:
    """Return a function without arguments that hashes the lossline of the process it runs in.

    It returns a SHA-256 (hex), or "none". A process keeps its first answer: that is the code it
    has loaded, even if the files change later.
    """

    def source_hash() -> str:
        import hashlib
        from pathlib import Path

        try:
            import lossline
        except ImportError:
            return "none"
        known = lossline.__dict__.get("_source_hash")
        if known is not None:
            return str(known)
        package = Path(next(iter(lossline.__path__)))
        digest = hashlib.sha256()
        for path in sorted(package.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
            digest.update(content)
        lossline.__dict__["_source_hash"] = digest.hexdigest()
        return digest.hexdigest()

    return source_hash


def checked_caller() -> Callable[[str, bytes], tuple[str, Any, str]]:
    """Return a function ``call(expected, work)`` for a Dask worker.

    ``work`` is a pickled ``(function, unit)``. It is loaded only if the worker's code has the
    expected hash. ``call`` returns ("done", result, address), ("other code", hash, address) or
    ("error", error, address) with the address of the worker. It raises other errors than those of
    the user, of the file system and of missing packages.
    """
    hasher = source_hasher()

    def call(expected: str, work: bytes) -> tuple[str, Any, str]:
        import pickle

        from distributed import get_worker

        address = get_worker().address
        found = hasher()
        if found != expected:
            return "other code", found, address
        from lossline.errors import UserError

        try:
            function, unit = pickle.loads(work)
            return "done", function(unit), address
        except (UserError, OSError, ImportError) as error:
            error.__traceback__ = None
            return "error", error, address

    return call
