"""What laws of shares alone need from mixture runs: one N, one D, positive losses."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.mixtures.runs import MixtureRuns

Array = np.ndarray

# Sizes and lengths within this factor count as one.
_SAME = 1.05


@dataclasses.dataclass(frozen=True)
class OneScale:
    """The one N and D of the fitted runs.

    Attributes:
        params: parameters N, geometric mean.
        tokens: training tokens D, geometric mean.
    """

    params: float
    tokens: float

    @classmethod
    def of(cls, runs: MixtureRuns) -> OneScale:
        """Return the scale of runs that ``check_one_scale`` has checked."""
        params, tokens = (float(np.exp(np.log(x).mean())) for x in (runs.params, runs.tokens))
        return cls(params, tokens)

    def only(self, losses: Array, params: Any, tokens: Any) -> Array:
        """Return losses (T, J), NaN at another N or D; None means the fitted N or D."""
        at = np.ones(len(losses), bool)
        for own, asked in ((self.params, params), (self.tokens, tokens)):
            if asked is not None:
                at &= np.abs(np.log(np.asarray(asked, float) / own)) <= np.log(_SAME)
        return np.where(at[:, None], losses, np.nan)


def check_one_scale(runs: MixtureRuns, name: str) -> None:
    """Check that a law of shares alone can be fitted.

    Args:
        runs: the runs to fit.
        name: the law, for the message.

    Raises:
        UserError: no runs, N or D differs between runs, a component has no run with a share above
            0, or a loss is not positive.
    """
    if not len(runs):
        raise UserError(f"{name}: no runs to fit. Give at least one run per component.")
    for letter, scale in (("N", runs.params), ("D", runs.tokens)):
        if scale.max() > _SAME * scale.min():
            raise UserError(
                f"{name}: the runs have {letter} from {scale.min():.3g} to {scale.max():.3g}; this "
                "law has no N and no D. Fit runs of one size and length, or choose another law."
            )
    runs.check_components()
    bad = runs.losses <= 0
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{name}: the loss of run {str(runs.runs[row])!r} on {runs.domains[column]!r} is "
            f"{runs.losses[row, column]:g}. Give positive losses, or leave the domain out."
        )


def checked_weights(weights: Array | None, count: int) -> Array:
    """Return the weight of each checkpoint (M,); 1 without weights.

    Raises:
        UserError: not one weight per checkpoint, or a weight is negative or not finite.
    """
    found = np.ones(count) if weights is None else np.asarray(weights, float)
    if found.shape != (count,) or not np.isfinite(found).all() or (found < 0).any():
        raise UserError(
            f"weights of the runs: shape {found.shape}. Give {count} numbers that are not negative."
        )
    return found
