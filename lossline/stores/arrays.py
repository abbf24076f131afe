"""One-dimensional zarr3 arrays (TensorStore): written once, sharded, a checksum per chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from lossline.errors import UserError

CHUNK = 1 << 13  # elements read at once: a training window touches one or two chunks
SHARD = 1 << 24  # elements per file
CACHE_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class ArrayFacts:
    """What a manifest records of an array, so that a missing, short or changed file is noticed."""

    dtype: str
    size: int
    sha256: str  # of the elements in order, little endian
    files: dict[str, int]  # path below the array's folder -> bytes


def write(
    folder: Path, blocks: Iterable[np.ndarray], *, dtype: str, size: int, shard: int = SHARD
) -> ArrayFacts:
    """Writes blocks, one after the other, as one array of ``size`` elements in ``folder``."""
    array = ts.open(
        _creation(folder, dtype=dtype, size=size, shard=shard), create=True, delete_existing=True
    ).result()
    digest, start = hashlib.sha256(), 0
    for block in _rechunked(blocks, np.dtype(dtype), shard):
        digest.update(block.astype(block.dtype.newbyteorder("<"), copy=False).tobytes())
        array[start : start + block.size].write(block).result()
        start += block.size
    if start != size:
        raise ValueError(f"{folder}: {start} elements came, {size} were announced")
    return ArrayFacts(dtype=dtype, size=size, sha256=digest.hexdigest(), files=_files(folder))


def open_array(location: str, facts: ArrayFacts, *, cache_bytes: int = CACHE_BYTES) -> Any:
    """Opens ``location`` (a folder or a URL such as ``gs://…``) for reading.

    Raises:
        UserError: it is missing, or has another type or size than ``facts`` say.
    """
    try:
        array = ts.open(
            {"driver": "zarr3", "kvstore": kvstore(location)},
            read=True,
            recheck_cached_data=False,
            context=ts.Context({"cache_pool": {"total_bytes_limit": cache_bytes}}),
        ).result()
    except (ValueError, OSError) as error:
        raise UserError(
            f"{location}: damaged ({str(error).splitlines()[0][:160]}); prepare it again"
        ) from error
    found = (array.dtype.numpy_dtype.name, tuple(array.shape))
    if found != (facts.dtype, (facts.size,)):
        raise UserError(
            f"{location}: holds {found}, the manifest says {facts.dtype} of {facts.size}; prepare "
            "it again"
        )
    return array


def check_files(folder: Path, facts: ArrayFacts) -> None:
    """Raises ``UserError`` where a file of the array is missing or has another size."""
    for name, size in facts.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; the store is incomplete, prepare it again")
        if path.stat().st_size != size:
            raise UserError(
                f"{path}: {path.stat().st_size} bytes, the manifest says {size}; truncated, "
                "prepare it again"
            )


def content_sha256(array: Any, *, block: int = SHARD) -> str:
    """Hash of an open array's elements, as ``write`` computes it.

    Raises:
        UserError: a chunk does not match its checksum.
    """
    digest = hashlib.sha256()
    for start in range(0, array.shape[0], block):
        piece = read(array, start, min(start + block, array.shape[0]))
        digest.update(piece.astype(piece.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def read(array: Any, start: int, stop: int) -> np.ndarray:
    """Elements ``start:stop`` of an open array.

    Raises:
        UserError: a chunk is unreadable or does not match its checksum.
    """
    try:
        return np.asarray(array[start:stop].read().result())
    except ValueError as error:
        raise UserError(
            f"{array.kvstore.url}: damaged ({str(error).splitlines()[0][:160]}); prepare it again"
        ) from error


def kvstore(location: str) -> Any:
    """TensorStore's name for a folder: a URL stays as it is, a path becomes a file store."""
    return (
        location if "://" in location else {"driver": "file", "path": str(Path(location).resolve())}
    )


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
        "store_data_equal_to_fill_value": True,  # a chunk of zeros is data, its absence is damage
        "metadata": {
            "shape": [size],
            "data_type": dtype,
            # Shards no longer than the array: a small array is one small file.
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [_shard_length(size, shard, chunk)]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }


def _shard_length(size: int, shard: int, chunk: int) -> int:
    return min(shard, max(chunk, -(-size // chunk) * chunk))


def _rechunked(blocks: Iterable[np.ndarray], dtype: np.dtype, length: int) -> Iterator[np.ndarray]:
    """The same elements in blocks of ``length``, so that every shard is written once."""
    waiting: list[np.ndarray] = []
    count = 0
    for block in blocks:
        waiting.append(block.astype(dtype, copy=False))
        count += block.size
        while count >= length:
            joined = np.concatenate(waiting)
            yield joined[:length]
            waiting, count = [joined[length:]], count - length
    if count:
        yield np.concatenate(waiting)


def _files(folder: Path) -> dict[str, int]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}
