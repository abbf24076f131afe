"""A method of selection that counts its pieces of work, and kills the process of one of them."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from lossline.corpora.pools import Page
from lossline.pages.page_set import as_set
from lossline.pages.task import Ranking, SelectionTask


@dataclass(frozen=True, kw_only=True)
class Killing:
    """Ranks pages by their length.

    Attributes:
        folder: gets a file for each time that a piece is done; while it contains "armed", the
            third piece kills its process.
    """

    folder: str = field(metadata={"identity": False})

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        given = as_set(pages)
        parts = given.map(partial(lengths, self.folder), what="lengths")
        return Ranking(np.concatenate(parts), np.ones(len(given), bool), {})


def lengths(folder: str, texts: Sequence[str]) -> np.ndarray:
    place = Path(folder)
    if len(list(place.glob("done-*"))) >= 2 and (place / "armed").exists():
        (place / "armed").unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)
    piece = hashlib.sha256("".join(texts).encode()).hexdigest()[:12]
    (place / f"done-{piece}-{os.urandom(4).hex()}").touch()
    return np.array([float(len(text)) for text in texts])
