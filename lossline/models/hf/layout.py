"""How a tensor of ours lies in a tensor of theirs, as one line of text.

``"D H K -> (H K) D"``: ours has axes D, H, K; theirs is a matrix with H and K as one axis, then D.
A ``1`` on the right is an axis of length 1. Both directions follow from the one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Layout:
    """A pattern such as ``"D H K -> (H K) D"``, read."""

    pattern: str

    @cached_property
    def _ours(self) -> list[str]:
        return self.pattern.split("->")[0].split()

    @cached_property
    def _groups(self) -> list[list[str]]:
        """Axes of ours in each axis of theirs; none for an axis of length 1."""
        right = self.pattern.split("->")[1]
        found = re.findall(r"\(([^)]*)\)|(\S+)", right)
        return [(group or name).split() if name != "1" else [] for group, name in found]

    @cached_property
    def _order(self) -> list[int]:
        """Axes of ours in the order of theirs."""
        names = [name for group in self._groups for name in group]
        if sorted(names) != sorted(self._ours):
            raise ValueError(f"layout {self.pattern!r} names other axes left than right")
        return [self._ours.index(name) for name in names]

    def their_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """Shape of theirs for a shape of ours."""
        sizes = dict(zip(self._ours, ours, strict=True))
        return tuple(math.prod(sizes[name] for name in group) for group in self._groups)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Ours laid out as theirs."""
        return ours.transpose(self._order).reshape(self.their_shape(ours.shape))

    def to_ours(self, theirs: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Theirs laid out as ours, which has that shape."""
        moved = theirs.reshape([shape[axis] for axis in self._order])
        return moved.transpose(np.argsort(self._order))


@dataclass(frozen=True)
class Tensor:
    """One of their tensors, and which of our parameters it holds.

    Attributes:
        name: theirs; ``{layer}`` stands for the layer's number.
        parts: ours ("blocks/mlp/gate") with their layouts; several lie one after the other along
            their first axis.
    """

    name: str
    parts: tuple[tuple[str, Layout], ...]

    @property
    def is_layered(self) -> bool:
        """Whether there is one for each layer, each a slice of our stacked parameter."""
        return "{layer}" in self.name


def tensor(name: str, *parts: tuple[str, str]) -> Tensor:
    """``Tensor`` from pairs of our name and a pattern."""
    return Tensor(name, tuple((ours, Layout(pattern)) for ours, pattern in parts))
