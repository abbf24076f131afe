"""How factors are tested, and what a small move is."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd

from lossline.errors import UserError
from lossline.seeds import check_seed

__all__ = ["SMALL", "AttributionOptions", "margin_of"]

# What a reader of loss curves calls small: 5% of perplexity; the same in bits per byte for tokens
# of 3.6 bytes. A convention, not fitted to any table (experiments/attribution/README.md says what
# was known when it was set).
SMALL = {"loss": 0.05, "bits_per_byte": 0.02}
# Losses of two models on one token differ by about so many nats (standard deviation), so that a set
# of n tokens resolves no difference below two standard errors, twice this over √n.
_TOKEN_SPREAD = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributionOptions:
    """How factors are tested.

    Attributes:
      x_set: evaluation set of the x axis; by default a validation set that no run was trained on.
      y_sets: sets whose lines are tested; by default all others that have a loss.
      alpha: family-wise level of the tests, and the level of each of two one-sided tests of
        equivalence.
      margin_nats, margin_bits_per_byte: a move smaller than this is small. By default 0.05 nats
        and 0.02 bits per byte, or what a set of few tokens can resolve, if that is more
        (`margin_of`).
      max_x: checkpoints with x above it (in nats, or bits per byte where x has no loss in nats) are
        left out; `fit` takes that of the lines by default.
      resamples: permutations for the resampled p-values; 0 for none. seed: of these permutations.
    """

    x_set: str | None = None
    y_sets: tuple[str, ...] = ()
    alpha: float = 0.05
    margin_nats: float | None = None
    margin_bits_per_byte: float | None = None
    max_x: float | None = None
    resamples: int = 499
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "attribution.seed")
        if not 0 < self.alpha < 0.5:
            raise UserError(f"attribution.alpha must lie between 0 and 0.5, not {self.alpha}")
        for name in ("margin_nats", "margin_bits_per_byte", "max_x"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"attribution.{name} must be a positive number, not {value}")
        if self.resamples < 0:
            raise UserError(f"attribution.resamples must be 0 or more, not {self.resamples}")


def margin_of(rows: pd.DataFrame, unit: str, options: AttributionOptions) -> float:
    """The margin of one evaluation set, in `unit`.

    Args:
      rows: the measurements of this set.
      unit: "loss" (nats per token) or "bits_per_byte".
      options: a margin that is given there holds for every set.
    """
    given = options.margin_nats if unit == "loss" else options.margin_bits_per_byte
    if given is not None:
        return given
    tokens, text = (_median(rows[name]) for name in ("target_tokens", "target_bytes"))
    resolved = 2.0 * _TOKEN_SPREAD / math.sqrt(tokens) if tokens > 0 else 0.0
    if unit != "loss":
        resolved *= tokens / text / math.log(2) if text > 0 else 0.0
    return max(SMALL[unit], resolved)


def _median(column: pd.Series) -> float:
    """Median of a column; NaN where it is empty."""
    return float(pd.to_numeric(column, errors="coerce").astype(float).median())
