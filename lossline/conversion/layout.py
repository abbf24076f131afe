"""Layout of a lossline tensor inside a Hugging Face tensor, as one line of text.

``"D H K -> (H K) D"``: on the left the axes of lossline's tensor; on the right those of Hugging
Face's, here a matrix with H and K as one axis, then D. A ``1`` on the right is an axis of length 1.
Both directions follow from this line.
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
    """A parsed pattern such as ``"D H K -> (H K) D"``."""

    pattern: str

    @cached_property
    def _ours(self) -> list[str]:
        return self.pattern.split("->")[0].split()

    @cached_property
    def _groups(self) -> list[list[str]]:
        """Return the axes of ours in each axis of theirs; no axes for an axis of length 1."""
        right = self.pattern.split("->")[1]
        found = re.findall(r"\(([^)]*)\)|(\S+)", right)
        return [(group or name).split() if name != "1" else [] for group, name in found]

    @cached_property
    def _order(self) -> list[int]:
        """Return the axes of ours in the order of theirs."""
        names = [name for group in self._groups for name in group]
        if sorted(names) != sorted(self._ours):
            raise ValueError(f"layout {self.pattern!r} has different axes left and right")
        return [self._ours.index(name) for name in names]

    def their_shape(self, ours: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of theirs for a shape of ours."""
        sizes = dict(zip(self._ours, ours, strict=True))
        return tuple(math.prod(sizes[name] for name in group) for group in self._groups)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """Convert an array from our layout to theirs."""
        return ours.transpose(self._order).reshape(self.their_shape(ours.shape))

    def to_ours(self, theirs: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Convert an array from their layout to ours, which has this shape."""
        moved = theirs.reshape([shape[axis] for axis in self._order])
        return moved.transpose(np.argsort(self._order))


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One Hugging Face tensor, and the lossline parameters that it holds.

    Attributes:
        name: name of the Hugging Face tensor; ``{layer}`` stands for the number of the layer.
        parts: names of lossline's parameters ("blocks/mlp/gate") with their layouts. Several are
            joined along ``axis``.
        axis: axis along which the parts are joined.
        heads: number of heads if the parts are joined head by head along the first axis, as
            queries, keys and values of GPT-NeoX are; 1: each part as a whole.
    """

    name: str
    parts: tuple[tuple[str, Layout], ...]
    axis: int = 0
    heads: int = 1

    @property
    def is_layered(self) -> bool:
        """Whether there is one tensor per layer, each a slice of lossline's stacked parameter."""
        return "{layer}" in self.name

    def shape(self, ours: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Return the shape of theirs for the shapes of our parts."""
        theirs = self._shapes(ours)
        joined = list(theirs[0])
        joined[self.axis] = sum(shape[self.axis] for shape in theirs)
        return tuple(joined)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Convert our parts to one tensor of theirs."""
        parts = [layout.to_theirs(part) for part, (_, layout) in zip(ours, self.parts, strict=True)]
        if len(parts) == 1:
            return parts[0]
        if self.heads == 1:
            return np.concatenate(parts, self.axis)
        by_head = [part.reshape(self.heads, -1, *part.shape[1:]) for part in parts]
        return np.concatenate(by_head, 1).reshape(-1, *parts[0].shape[1:])

    def to_ours(self, theirs: np.ndarray, ours: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Convert their tensor to our parts, which have these shapes."""
        shapes = self._shapes(ours)
        axis = self.axis
        if self.heads > 1:
            theirs, axis = theirs.reshape(self.heads, -1, *theirs.shape[1:]), 1
        ends = np.cumsum([shape[self.axis] // self.heads for shape in shapes])
        return [
            layout.to_ours(part.reshape(their_shape), shape)
            for part, their_shape, shape, (_, layout) in zip(
                np.split(theirs, ends[:-1], axis), shapes, ours, self.parts, strict=True
            )
        ]

    def _shapes(self, ours: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        return [
            layout.their_shape(shape) for shape, (_, layout) in zip(ours, self.parts, strict=True)
        ]


def tensor(name: str, *parts: tuple[str, str], axis: int = 0, heads: int = 1) -> Tensor:
    """Return a ``Tensor`` from pairs of a lossline name and a pattern."""
    layouts = tuple((ours, Layout(pattern)) for ours, pattern in parts)
    return Tensor(name=name, parts=layouts, axis=axis, heads=heads)
