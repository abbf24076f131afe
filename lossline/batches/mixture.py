"""Mixtures of token stores: names, shares and identity."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from lossline.errors import UserError
from lossline.stores.token_store import store_fingerprint

_NAME = re.compile(r"[\w.+-]+")


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Gin component: a mixture of token stores, ``train.store = @mixture()``.

    Attributes:
        components: folder or URL of each component's token store, by name. All stores must have
            the same vocabulary.
        shares: share of the training rows of each component, by name. Shares need not sum to 1:
            0.7 and 0.3 are equal to 7 and 3. A share of 0 excludes the component; its store is not
            read and may be missing.

    Raises:
        UserError: components and shares have different names, a share is negative or not finite,
            no share is above 0, or a name is not valid in the loss table's column
            ``share.<component>``.
    """

    components: Mapping[str, str]
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        for name in self.components:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"mixture.components: {name!r} is not a valid name. Use only letters, digits "
                    "and . _ + -"
                )
        for name in self.shares:
            if name not in self.components:
                raise UserError(
                    f"mixture.shares: {name!r} is not in mixture.components "
                    f"({', '.join(self.components) or 'empty'}). Correct one of the two."
                )
        for name in self.components:
            if name not in self.shares:
                raise UserError(
                    f"mixture.shares: no share for {name!r}. Add one (0 excludes the component)."
                )
        _ = self.whole_shares  # raises UserError for invalid shares

    @property
    def whole_shares(self) -> dict[str, int]:
        """The shares above 0 as integers without a common divisor, sorted by name."""
        return whole_shares({name: self.shares[name] for name in sorted(self.shares)})

    @property
    def identity(self) -> dict[str, Any]:
        """Identity of the mixture, which is part of the run's identity.

        Contains the store fingerprint and the normalized share (sum 1) of every component with a
        share above 0.

        Raises:
            NoStore: the store of a component does not exist.
        """
        whole = self.whole_shares
        return {
            "__class__": type(self).__name__,
            "components": {name: store_fingerprint(self.components[name]) for name in whole},
            "shares": shares_of_one(whole),
        }


def store_identity(store: str | Mixture) -> str | dict[str, Any]:
    """Return the identity of ``train.store``: it depends on contents, not on paths.

    Raises:
        NoStore: a store does not exist.
    """
    return store.identity if isinstance(store, Mixture) else store_fingerprint(store)


def whole_shares(shares: Mapping[str, float], *, where: str = "mixture.shares") -> dict[str, int]:
    """Convert shares to integers with the same proportions and no common divisor.

    A float counts as its decimal notation: 0.7 and 0.3 give exactly 7 and 3, so no error
    accumulates in a long run. Components with share 0 are excluded.

    Args:
        shares: share of each component, by name.
        where: option to name in error messages.

    Raises:
        UserError: a share is negative or not finite, or no share is above 0.
    """
    for name, share in shares.items():
        if not math.isfinite(share) or share < 0:
            raise UserError(
                f"{where}: the share of {name!r} is {share}. Give a number of at least 0."
            )
    # Fraction(0.7) is the binary value of the float, slightly less than 7/10. Fraction("0.7") is
    # exactly 7/10.
    exact = {name: Fraction(str(float(share))) for name, share in shares.items() if share > 0}
    if not exact:
        raise UserError(f"{where}: no component has a share above 0. Give one a positive share.")
    unit = math.lcm(*(share.denominator for share in exact.values()))
    whole = {name: int(share * unit) for name, share in exact.items()}
    divisor = math.gcd(*whole.values())
    return {name: share // divisor for name, share in whole.items()}


def shares_of_one(whole: Mapping[str, int]) -> dict[str, float]:
    """Normalize integer shares to a sum of 1."""
    return {name: share / sum(whole.values()) for name, share in whole.items()}


def described(shares: Mapping[str, float]) -> str:
    """Return normalized shares as text for the loss table, such as "python 30% + wiki 70%"."""
    return " + ".join(f"{name} {100 * share:.6g}%" for name, share in sorted(shares.items()))


def mixture_fingerprint(fingerprints: Sequence[str], shares: Sequence[int]) -> str:
    """Return the fingerprint of a mixture: SHA-256 (hex) of its stores and shares.

    The order of the stores has no effect. A mixture of one store has the fingerprint of the store,
    because its batches are equal.

    Args:
        fingerprints: fingerprint of each store.
        shares: integer share of each store, without a common divisor.
    """
    if len(fingerprints) == 1:
        return fingerprints[0]
    parts = sorted(zip(fingerprints, shares, strict=True))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
