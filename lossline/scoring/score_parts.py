"""Finished parts of token scores, kept on disk so that a killed scoring continues."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lossline.files import write_bytes
from lossline.stores.token_scores import DTYPE

_DAMAGE = (ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile)


def part_ranges(windows: int, *, rows: int, batch_size: int) -> list[range]:
    """Cut windows 0 to ``windows`` into ranges of whole batches, each of at least ``rows`` windows.

    Only the last range may be shorter. A second start with the same arguments finds the same ones.
    """
    size = -(-max(rows, 1) // batch_size) * batch_size
    return [range(a, min(a + size, windows)) for a in range(0, windows, size)]


@dataclass(frozen=True)
class ScoreParts:
    """The parts of one scoring: a file for each range of windows, with checksums of its contents.

    Attributes:
        folder: their folder; made when the first part is kept.
        quantities: what each part holds.
        length: tokens per window.
    """

    folder: Path
    quantities: Sequence[str]
    length: int

    def has(self, part: range) -> bool:
        """Return whether a part is finished and undamaged."""
        return self.read(part) is not None

    def read(self, part: range) -> dict[str, np.ndarray] | None:
        """Return the float16 [windows, L] scores by quantity; None if not finished, or damaged."""
        try:
            content = self._file(part).read_bytes()
        except FileNotFoundError:
            return None
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as stored:
                found = {name: stored[name] for name in self.quantities}
        except _DAMAGE:
            return None
        shape = (len(part), self.length)
        whole = all(a.shape == shape and a.dtype.name == DTYPE for a in found.values())
        return found if whole else None

    def keep(self, part: range, scores: Mapping[str, np.ndarray]) -> None:
        """Write the scores of a part, atomically."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **scores)  # type: ignore[arg-type]  # a name is no option of savez
        write_bytes(self._file(part), content.getvalue())

    def _file(self, part: range) -> Path:
        return self.folder / f"{part.start}-{part.stop}.npz"
