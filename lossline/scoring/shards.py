"""Finished parts of the scores of one model, kept on disk so that a killed scoring continues.

A shard is a range of consecutive pages. Its file holds the nats of each page, so that the sums of
any grouping of pages come from the same numbers.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from lossline.files import write_bytes

_DIGEST = hashlib.sha256().digest_size


def shard_ranges(tokens: np.ndarray, shard_tokens: int) -> list[slice]:
    """Cut pages into ranges of about equally many tokens.

    The ranges depend only on the arguments, so a second start finds the files of the first.

    Args:
        tokens: tokens that each page costs, int64 [pages].
        shard_tokens: wanted tokens of a shard; a longer page is a shard of its own.

    Returns:
        Ranges that together cover all pages, none of them empty.
    """
    stops = np.cumsum(tokens)
    number = max(1, round(int(stops[-1]) / shard_tokens))
    wanted = stops[-1] * np.arange(1, number + 1) / number
    ends = np.unique([0, *(np.searchsorted(stops, wanted - 0.5) + 1)])
    return [slice(int(a), int(b)) for a, b in pairwise(ends)]


@dataclass(frozen=True)
class ShardFiles:
    """The shards of one model, checkpoint, store and rule: one small file each.

    A file is an array of NumPy, and then its SHA-256.

    Attributes:
        folder: their folder; made when the first shard is kept.
    """

    folder: Path

    def read(self, pages: slice) -> np.ndarray | None:
        """Return the nats of each page of a shard, float64; None if it is not finished.

        A damaged file counts as not finished.
        """
        try:
            content = self._file(pages).read_bytes()
        except FileNotFoundError:
            return None
        array, digest = content[:-_DIGEST], content[-_DIGEST:]
        if digest != hashlib.sha256(array).digest():
            return None
        nats: np.ndarray = np.load(io.BytesIO(array), allow_pickle=False)
        whole = nats.shape == (pages.stop - pages.start,) and nats.dtype == np.float64
        return nats if whole and np.isfinite(nats).all() else None

    def keep(self, pages: slice, nats: np.ndarray) -> None:
        """Write the nats of each page of a shard, atomically, unless one is not finite.

        A model whose nats are not finite is scored again at the next start.
        """
        if np.isfinite(nats).all():
            self.folder.mkdir(parents=True, exist_ok=True)
            content = io.BytesIO()
            np.save(content, nats)
            array = content.getvalue()
            write_bytes(self._file(pages), array + hashlib.sha256(array).digest())

    def _file(self, pages: slice) -> Path:
        return self.folder / f"{pages.start}-{pages.stop}.npy"
