"""Text shards: documents that one reader writes next to the parts, for the workers to read.

Only one process can read some sources, such as TFDS. It writes their text in pieces; a piece is
deleted as soon as its part is finished, so few exist at a time.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lossline.files import write_bytes


@dataclass(frozen=True, kw_only=True)
class TextShard:
    """Documents in a file.

    Attributes:
        path: the file.
    """

    path: Path

    def texts(self) -> Iterator[str]:
        """Yield the documents."""
        with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as stored:
            data, sizes = stored["data"].tobytes(), stored["sizes"].tolist()
        start = 0
        for size in sizes:
            yield data[start : start + size].decode()
            start += size


def write_shard(path: Path, texts: Sequence[str]) -> TextShard:
    """Write documents to a file, whole or not at all."""
    encoded = [text.encode() for text in texts]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        data=np.frombuffer(b"".join(encoded), np.uint8),
        sizes=np.array([len(text) for text in encoded], np.int64),
    )
    write_bytes(path, buffer.getvalue())
    return TextShard(path=path)
