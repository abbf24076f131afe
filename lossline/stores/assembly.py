"""Assemble the arrays of a store from its parts; memory does not grow with the store.

Workers write the files of the ids, because these are nearly all of a store. This process reads the
ids once more, in order, for their hash; and it writes the small arrays.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lossline.checksums import file_sizes
from lossline.cluster import Engine
from lossline.errors import UserError
from lossline.stores import arrays, parts
from lossline.stores.arrays import ArrayFacts
from lossline.stores.parts import Part, id_dtype
from lossline.terminal import Say, silent
from lossline.vocabularies import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Consecutive ids of a part.

    Attributes:
        part: the part.
        start: first id.
        stop: end of the ids.
    """

    part: Part
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class IdsFile:
    """A file of the array of ids: the unit of work of an assembly.

    Attributes:
        start: its first element in the array.
        slices: where its ids are, in order.
    """

    start: int
    slices: tuple[Slice, ...]


def assemble(
    partial: Path,
    made: Sequence[Part],
    vocabulary: Vocabulary,
    *,
    shard: int,
    engine: Engine,
    say: Say = silent,
) -> dict[str, ArrayFacts]:
    """Write the arrays of a token store.

    Args:
        partial: folder of the unfinished store; workers must see it by this path.
        made: parts in order.
        vocabulary: vocabulary of the ids.
        shard: ids per file.
        engine: engine that writes the files of the ids.
        say: receives a line of progress now and then.

    Returns:
        The facts for the manifest, by the name of the array.

    Raises:
        UserError: a part is missing or damaged, or a worker writes to another disk.
    """
    dtype = id_dtype(vocabulary)
    documents = sum(part.documents for part in made)

    def offsets() -> Iterator[np.ndarray]:
        last = np.zeros(1, np.int64)
        yield last
        for lengths in _chained(parts.lengths, made, dtype):
            block = last[-1] + np.cumsum(lengths)
            yield block
            last = block[-1:]

    def small(name: str, blocks: Iterable[np.ndarray], kind: str, size: int) -> ArrayFacts:
        return arrays.write(partial / name, blocks, dtype=kind, size=size)

    sizes = _chained(parts.sizes, made, dtype)
    values = vocabulary.token_bytes
    return {
        "tokens": _ids(partial / "tokens", made, dtype, shard, engine, say),
        "offsets": small("offsets", offsets(), "int64", documents + 1),
        "document_bytes": small("document_bytes", sizes, "int64", documents),
        "token_bytes": small("token_bytes", [values], values.dtype.name, values.size),
    }


def _ids(
    folder: Path, made: Sequence[Part], dtype: str, shard: int, engine: Engine, say: Say
) -> ArrayFacts:
    size = sum(part.tokens for part in made)
    count = -(-size // shard)
    arrays.create(folder, dtype=dtype, size=size, shard=shard)
    write = functools.partial(write_ids, folder, dtype)
    with _sha256_beside(made, dtype) as sha256:
        for _ in engine.run(
            write, ids_files(made, shard), say=say, what=f"of {count} files of ids"
        ):
            pass
        found = file_sizes(folder)
        if len(found) != 1 + count:
            raise UserError(
                f"{folder}: workers have written {len(found) - 1} of {count} files there. All of "
                "them must share this file system with this machine."
            )
        return ArrayFacts(dtype=dtype, size=size, sha256=sha256.result(), files=found)


@contextlib.contextmanager
def _sha256_beside(made: Iterable[Part], dtype: str) -> Iterator[Future[str]]:
    """Compute the SHA-256 of all ids in a thread, until the block ends."""
    ended = threading.Event()

    def sha256() -> str:
        digest = hashlib.sha256()
        for block in _chained(parts.ids, made, dtype):  # little endian in the parts
            if ended.is_set():
                break
            digest.update(block.data)
        return digest.hexdigest()

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(sha256)
        finally:
            ended.set()


def ids_files(made: Iterable[Part], shard: int) -> Iterator[IdsFile]:
    """Yield the files of the array of ids, each with ``shard`` ids but the last."""
    slices: list[Slice] = []
    start = held = 0
    for part in made:
        taken = 0
        while taken < part.tokens:
            count = min(part.tokens - taken, shard - held)
            slices.append(Slice(part=part, start=taken, stop=taken + count))
            taken, held = taken + count, held + count
            if held == shard:
                yield IdsFile(start=start, slices=tuple(slices))
                slices, start, held = [], start + shard, 0
    if slices:
        yield IdsFile(start=start, slices=tuple(slices))


def write_ids(folder: Path, dtype: str, file: IdsFile) -> None:
    """Write one file of the array of ids."""
    elements = np.empty(sum(piece.stop - piece.start for piece in file.slices), dtype)
    start = 0
    for piece in file.slices:
        for block in parts.ids(piece.part, dtype, piece.start, piece.stop):
            elements[start : start + block.size] = block
            start += block.size
    arrays.write_file(folder, file.start, elements)


def _chained(
    read: Callable[[Part, str], Iterator[np.ndarray]], made: Iterable[Part], dtype: str
) -> Iterator[np.ndarray]:
    for part in made:
        yield from read(part, dtype)
