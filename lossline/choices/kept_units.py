"""Units of work whose results are kept in files, so that a killed selection continues.

The name of a file is a hash of all that its result depends on, so a file that is there and whole is
the result.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from lossline.cluster.code_version import source_hasher
from lossline.files import remove_folder, write_bytes
from lossline.places import to_path

Unit = TypeVar("Unit")
Result = TypeVar("Result")
_PACKAGES = ("numpy", "scipy", "py3langid")  # that units use, besides tokenizers
_DIGEST = hashlib.sha256().digest_size


@dataclass(frozen=True)
class KeptUnit:
    """A unit, and the file of its result."""

    unit: Any
    file: str


def kept(function: Callable[[Any], Result], unit: KeptUnit) -> Result:
    """Return the result of a unit that an earlier start has finished; else do it and keep it.

    Its folder must exist: when a selection has ended, a worker that is late keeps nothing.
    """
    path = to_path(unit.file)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    if content and content[:_DIGEST] == hashlib.sha256(content[_DIGEST:]).digest():
        found: Result = pickle.loads(content[_DIGEST:])
        return found
    found = function(unit.unit)
    content = pickle.dumps(found)
    write_bytes(path, hashlib.sha256(content).digest() + content)
    return found


def key(*parts: Any) -> str:
    """Return a hash of bytes, and of other values by their pickles.

    Equal values may have different pickles, which costs that a unit is done again.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else pickle.dumps(part)
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def unit_folder(work: Path, pool_fingerprint: str) -> Path:
    """Return the folder of the results for one pool and the present code; remove other ones.

    Args:
        work: folder of the selection's work.
        pool_fingerprint: fingerprint of the pool.
    """
    code = [source_hasher()(), *map(_version, _PACKAGES)]
    folder = work / f"units-{key(pool_fingerprint, code)[:16]}"
    if work.is_dir():
        for other in work.glob("units-*"):
            if other != folder:
                remove_folder(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
