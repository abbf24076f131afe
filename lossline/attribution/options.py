"""Options of the attribution, and the margin below which a move is small."""

from __future__ import annotations

import dataclasses
import math

import pandas as pd

from lossline.errors import UserError
from lossline.seeds import check_seed

# The margin is a convention: 5% of perplexity, and the same in bits per byte for tokens of 3.6
# bytes. It was not fitted to a table. experiments/attribution/README.md lists what was known when
# it was set.
SMALL = {"loss": 0.05, "bits_per_byte": 0.02}
# Standard deviation, in nats, of the difference between two models' losses on one token. A set of n
# tokens cannot resolve a difference below two standard errors, which is 2 * this / √n.
_TOKEN_SPREAD = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributionOptions:
    """Options of the attribution.

    Attributes:
        x_set: evaluation set of the x axis. Default: a validation set that no run was trained on.
        y_sets: evaluation sets whose lines are tested. Default: all others that have a loss.
        alpha: family-wise level of the tests, and level of each one-sided test of equivalence.
        margin_nats: a move below this many nats per token is small. Default: 0.05, or more for a
            set of few tokens (``margin_of``).
        margin_bits_per_byte: the same in bits per byte. Default: 0.02, or more.
        max_x: leave out checkpoints with x above this, in nats (in bits per byte where x has no
            loss in nats). ``fit`` uses the ``max_x`` of the lines by default.
        resamples: number of permutations for the resampled p-values; 0 for none.
        seed: seed of these permutations.

    Raises:
        UserError: an option is out of range.
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
        """Refuse options that are out of range."""
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
    """Return the margin of one evaluation set, in ``unit``.

    Args:
        rows: measurements on this set.
        unit: "loss" (nats per token) or "bits_per_byte".
        options: a margin given here holds for every set.
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
    """Median of a column; NaN for an empty column."""
    return float(pd.to_numeric(column, errors="coerce").astype(float).median())
