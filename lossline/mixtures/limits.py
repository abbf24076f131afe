"""Bounds of the shares of a mixture: by component, and by how often text may be repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from lossline.errors import UserError
from lossline.mixtures.runs import unknown_name

Array = np.ndarray

_TINY = 1e-9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the shares by component; components not named may have any share.

    Attributes:
        lower: lowest share.
        upper: highest share.
        available: tokens that exist of a component.
        epochs: how often a token may be repeated.
        tokens: tokens D of the training that the mixture is for, needed with ``available``.
    """

    lower: Mapping[str, float] = dataclasses.field(default_factory=dict)
    upper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    available: Mapping[str, float] = dataclasses.field(default_factory=dict)
    epochs: float = 1.0
    tokens: float = float("nan")

    def bounds(self, components: Sequence[str]) -> tuple[Array, Array]:
        """Return the lowest and highest share of each component, (K,) each.

        Raises:
            UserError: a name is unknown, D is missing, or no mixture is within the bounds.
        """
        for group in (self.lower, self.upper, self.available):
            for name in group:
                if name not in components:
                    raise unknown_name("component", name, components)
        if self.available and not (self.tokens > 0 and self.epochs > 0):
            raise UserError(
                f"limits: caps by repetition need tokens D and epochs above 0, not {self.tokens:g} "
                f"and {self.epochs:g}. Give both."
            )
        low = np.array([self.lower.get(name, 0.0) for name in components], float)
        caps = {name: self.epochs * n / self.tokens for name, n in self.available.items()}
        high = np.array(
            [min(self.upper.get(name, 1.0), caps.get(name, 1.0), 1.0) for name in components], float
        )
        if (low < 0).any() or (low > high + _TINY).any():
            at = int(np.argmax((low < 0) | (low > high + _TINY)))
            raise UserError(
                f"limits of {components[at]!r}: the share must lie between {low[at]:.4g} and "
                f"{high[at]:.4g}, which is impossible. Correct the bounds or the cap."
            )
        if low.sum() > 1 + _TINY or high.sum() < 1 - _TINY:
            which, total = ("lowest", low.sum()) if low.sum() > 1 else ("highest", high.sum())
            raise UserError(
                f"limits: the {which} shares of all components sum to {total:.4g}; no mixture "
                f"fits. {'Lower' if which == 'lowest' else 'Raise'} some of them"
                f"{', or allow more epochs' if which == 'highest' and caps else ''}."
            )
        return low, high
