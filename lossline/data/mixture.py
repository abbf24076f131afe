"""Shares of a mixture's components as exact numbers, and what makes two mixtures the same."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from lossline.errors import UserError


def whole_shares(shares: Mapping[str, float], *, where: str = "mixture.shares") -> dict[str, int]:
    """Shares in the same proportions as whole numbers without a common divisor.

    A float is the decimal that it is written as, so that 0.7 and 0.3 are exactly 7 to 3 and nothing
    drifts in a long run. A component whose share is 0 is left out.

    Raises:
        UserError: a share is below 0 or not finite, or none is above 0.
    """
    for name, share in shares.items():
        if not math.isfinite(share) or share < 0:
            raise UserError(
                f"{where}: the share of {name!r} is {share}; give a number of at least 0"
            )
    exact = {name: Fraction(str(float(share))) for name, share in shares.items() if share > 0}
    if not exact:
        raise UserError(f"{where}: no component has a share above 0; give one a positive share")
    unit = math.lcm(*(share.denominator for share in exact.values()))
    whole = {name: int(share * unit) for name, share in exact.items()}
    divisor = math.gcd(*whole.values())
    return {name: share // divisor for name, share in whole.items()}


def mixture_fingerprint(fingerprints: Sequence[str], shares: Sequence[int]) -> str:
    """SHA-256 (hex) of stores and their whole shares, in whatever order; that of one store is its
    own, since its batches are.
    """
    if len(fingerprints) == 1:
        return fingerprints[0]
    parts = sorted(zip(fingerprints, shares, strict=True))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
