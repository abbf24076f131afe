"""Write and read one-dimensional zarr3 arrays (TensorStore), sharded, with checksums.

Arrays are written once and never modified. Every chunk has a CRC-32C checksum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from lossline.checksums import file_sizes
from lossline.errors import UserError

CHUNK = 1 << 13  # elements per read: a training window needs only a few chunks
SHARD = 1 << 24  # elements per file
CACHE_BYTES = 1 << 28  # bytes of chunks kept in memory per array
REMEDY = "Prepare the store again."
# By default, chunks of zeros are not written. Write them, so a missing chunk means damage.
_WITH_ZEROS = {"store_data_equal_to_fill_value": True}


@dataclass(frozen=True, kw_only=True)
class ArrayFacts:
    """Facts about an array in the manifest; used to detect missing, truncated or changed files.

    Attributes:
        dtype: type of the elements.
        size: number of elements.
        sha256: SHA-256 (hex) of the elements in order, little endian.
        files: size of every file in bytes, by path below the array's folder.
    """

    dtype: str
    size: int
    sha256: str
    files: dict[str, int]


def write(
    folder: Path, blocks: Iterable[np.ndarray], *, dtype: str, size: int, shard: int = SHARD
) -> ArrayFacts:
    """Write consecutive blocks as one array.

    Args:
        folder: folder of the array; replaced if it exists.
        blocks: one-dimensional arrays, in order.
        dtype: type of the elements.
        size: total number of elements.
        shard: elements per file.

    Returns:
        The facts for the manifest.

    Raises:
        ValueError: the blocks do not have ``size`` elements in total.
    """
    array = create(folder, dtype=dtype, size=size, shard=shard)
    digest, start = hashlib.sha256(), 0
    for block in _rechunked(blocks, np.dtype(dtype), shard):
        digest.update(_little_endian(block))
        _write(array, start, block)
        start += block.size
    if start != size:
        raise ValueError(f"{folder}: {start} elements written, {size} expected")
    return ArrayFacts(dtype=dtype, size=size, sha256=digest.hexdigest(), files=file_sizes(folder))


def create(folder: Path, *, dtype: str, size: int, shard: int = SHARD) -> Any:
    """Create an array without elements, for ``write_file``.

    Args:
        folder: folder of the array; replaced if it exists.
        dtype: type of the elements.
        size: total number of elements.
        shard: elements per file.

    Returns:
        An open ``tensorstore.TensorStore``.
    """
    spec = _creation(folder, dtype=dtype, size=size, shard=shard)
    return ts.open(spec, create=True, delete_existing=True).result()


def write_file(folder: Path, start: int, elements: np.ndarray) -> None:
    """Write the elements of one file of an array that ``create`` has made.

    Several processes may write different files, or the same elements of one, at the same time.

    Args:
        folder: folder of the array.
        start: first element of the file.
        elements: all elements of the file; nothing may change them afterwards.
    """
    spec = {"driver": "zarr3", "kvstore": kvstore(str(folder)), **_WITH_ZEROS}
    array = ts.open(spec, open=True, write=True).result()
    _write(array, start, elements)


def _write(array: Any, start: int, elements: np.ndarray) -> None:
    """Write elements, which nothing may change later: TensorStore refers to them, without a copy.

    The copies would be cut into chunks, whose memory the allocator does not give back.
    """
    target = array[start : start + elements.size]
    target.write(elements, can_reference_source_data_indefinitely=True).result()


def open_array(
    location: str, facts: ArrayFacts, *, cache_bytes: int = CACHE_BYTES, remedy: str = REMEDY
) -> Any:
    """Open an array for reading.

    Args:
        location: folder, or URL such as ``gs://…``.
        facts: facts of the array in the manifest.
        cache_bytes: bytes of chunks to keep in memory.
        remedy: how to mend damage, a sentence for messages.

    Returns:
        An open ``tensorstore.TensorStore``.

    Raises:
        UserError: the array is missing or damaged, or differs from ``facts`` in type or size.
    """
    try:
        array = ts.open(
            {"driver": "zarr3", "kvstore": kvstore(location)},
            read=True,
            recheck_cached_data=False,
            context=ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}}),
        ).result()
    except (ValueError, OSError) as error:
        raise UserError(f"{location}: damaged ({_first_line(error)}). {remedy}") from error
    found = (array.dtype.numpy_dtype.name, tuple(array.shape))
    if found != (facts.dtype, (facts.size,)):
        raise UserError(
            f"{location}: type and shape are {found}, but the manifest records {facts.dtype} and "
            f"{facts.size} elements. {remedy}"
        )
    return array


def check_files(folder: Path, facts: ArrayFacts, *, remedy: str = REMEDY) -> None:
    """Check the size of every file of an array.

    Args:
        folder: folder of the array.
        facts: facts of the array in the manifest.
        remedy: how to mend damage, a sentence for messages.

    Raises:
        UserError: a file is missing or has another size.
    """
    found = file_sizes(folder)
    for name, size in facts.files.items():
        path = folder / name
        if name not in found:
            raise UserError(f"{path}: missing, so the folder is incomplete. {remedy}")
        if found[name] != size:
            raise UserError(
                f"{path}: truncated or changed ({found[name]} bytes; the manifest records {size}). "
                f"{remedy}"
            )


def content_sha256(array: Any, *, block: int = SHARD, remedy: str = REMEDY) -> str:
    """Return the SHA-256 (hex) of an open array's elements, computed as in ``write``.

    Args:
        array: open array.
        block: elements read at once.
        remedy: how to mend damage, a sentence for messages.

    Raises:
        UserError: a chunk does not match its checksum.
    """
    digest = hashlib.sha256()
    for start in range(0, array.shape[0], block):
        piece = read(array, start, min(start + block, array.shape[0]), remedy=remedy)
        digest.update(_little_endian(piece))
    return digest.hexdigest()


def read(array: Any, start: int, stop: int, *, remedy: str = REMEDY) -> np.ndarray:
    """Return elements ``start:stop`` of an open array.

    Args:
        array: open array.
        start: first element.
        stop: end of the elements.
        remedy: how to mend damage, a sentence for messages.

    Raises:
        UserError: a chunk is unreadable or does not match its checksum.
    """
    return _result(array, array[start:stop].read(), remedy)


def read_rows(
    array: Any,
    starts: Sequence[int] | np.ndarray,
    length: int,
    *,
    dtype: type,
    remedy: str = REMEDY,
) -> np.ndarray:
    """Return ``length`` elements from each start, read concurrently.

    Args:
        array: open array.
        starts: first element of each row.
        length: elements per row.
        dtype: type of the result.
        remedy: how to mend damage, a sentence for messages.

    Returns:
        dtype [len(starts), length].

    Raises:
        UserError: a chunk is unreadable or does not match its checksum.
    """
    # Start all reads before waiting for the first result, so that they overlap.
    pending = [array[int(start) : int(start) + length].read() for start in starts]
    rows: np.ndarray = np.empty((len(pending), length), dtype)
    for row, future in zip(rows, pending, strict=True):
        row[:] = _result(array, future, remedy)
    return rows


def kvstore(location: str) -> Any:
    """Return TensorStore's key-value store for a location: a URL unchanged, a path as a spec."""
    return (
        location if "://" in location else {"driver": "file", "path": str(Path(location).resolve())}
    )


def _result(array: Any, pending: Any, remedy: str) -> np.ndarray:
    """Wait for a read and return its elements."""
    try:
        return np.asarray(pending.result())
    except ValueError as error:
        raise UserError(f"{array.kvstore.url}: damaged ({_first_line(error)}). {remedy}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:160]


def _creation(folder: Path, *, dtype: str, size: int, shard: int) -> dict[str, Any]:
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if np.dtype(dtype).itemsize == 1:
        codecs = [{"name": "bytes"}]
    chunk = min(CHUNK, shard)
    sharding = {
        "chunk_shape": [chunk],
        "codecs": [*codecs, {"name": "crc32c"}],
        "index_codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ],
    }
    return {
        "driver": "zarr3",
        "kvstore": kvstore(str(folder)),
        **_WITH_ZEROS,
        "metadata": {
            "shape": [size],
            "data_type": dtype,
            # Shards are not longer than the array, so a small array is one small file.
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [_shard_length(size, shard, chunk)]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }


def _shard_length(size: int, shard: int, chunk: int) -> int:
    return min(shard, max(chunk, -(-size // chunk) * chunk))


def _little_endian(elements: np.ndarray) -> memoryview:
    """Return the bytes of elements; a copy only where this machine stores them otherwise."""
    return np.ascontiguousarray(elements, elements.dtype.newbyteorder("<")).data


def _rechunked(blocks: Iterable[np.ndarray], dtype: np.dtype, length: int) -> Iterator[np.ndarray]:
    """Yield the same elements in blocks of ``length``, so that every shard is written once.

    No block is changed after it was yielded.
    """
    filling, filled = np.empty(length, dtype), 0
    for block in blocks:
        taken = 0
        while taken < block.size:
            count = min(block.size - taken, length - filled)
            filling[filled : filled + count] = block[taken : taken + count]
            taken, filled = taken + count, filled + count
            if filled == length:
                yield filling
                filling, filled = np.empty(length, dtype), 0
    if filled:
        yield filling[:filled]
