"""Check that a checkpoint in a bucket has every file that its arrays lie in.

A manifest lists the files that exist, so a file that was acknowledged and lost would not be missed.
OCDBT, TensorStore's database of arrays, is a tree of files that name others; reading its nodes
(a small share of the bytes) gives the names and sizes of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tensorstore as ts

from lossline.checksums import Checksum
from lossline.errors import UserError

_COMMITTED = "commit_success.txt"  # written last by Orbax where folders cannot be renamed


def check_saved(folder: Path, parts: tuple[str, ...], files: Mapping[str, Checksum]) -> None:
    """Check a checkpoint before its manifest is written.

    Args:
        folder: the checkpoint, in a bucket.
        parts: its Orbax trees.
        files: what the bucket holds, with sizes.

    Raises:
        UserError: a file is missing or too short.
    """
    for part in parts:
        needed = {f"{part}/{_COMMITTED}": 0}
        needed |= {f"{part}/{name}": size for name, size in _array_files(folder / part).items()}
        for name, size in needed.items():
            if name not in files or files[name][0] < size:
                raise UserError(
                    f"checkpoint {folder}: the storage has lost {name}, which it had acknowledged. "
                    "Run the same command again to continue from the checkpoint before."
                )


def _array_files(database: Path) -> dict[str, int]:
    """Return the files of an OCDBT database -> bytes that it must have at least.

    Raises:
        UserError: a node of the tree cannot be read.
    """
    base = ts.KvStore.open(f"{database}/").result()
    sizes: dict[str, int] = {}
    try:
        waiting = list(_places(ts.ocdbt.dump(base).result()))
        if not waiting:
            raise ValueError("no version of the arrays")
        while waiting:
            kind, place, name, end = waiting.pop()
            sizes[name] = max(end, sizes.get(name, 0))
            if kind == "btreenode":
                waiting += _places(ts.ocdbt.dump(base, node=place).result())
    except ValueError as error:  # TensorStore's error for whatever cannot be read
        raise UserError(
            f"{database}: the arrays that were just saved cannot be read "
            f"({str(error).splitlines()[0][:160]}). Run the same command again."
        ) from error
    return sizes


def _places(tree: Any) -> Iterator[tuple[str, str, str, int]]:
    """Yield kind, text, file and end of every place that a dumped node names."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, list):
        for item in tree:
            yield from _places(item)
    elif isinstance(tree, str) and tree.startswith(("btreenode:", "value:")):
        kind, base, path, offset, length = tree.split(":")
        yield kind, tree, unquote(base) + unquote(path), int(offset) + int(length)
