"""Mixtures of token stores by name and share, and what makes two of them the same."""

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
    """A mixture to train on: ``train.store = @mixture()``.

    Attributes:
        components: name -> folder (or URL) of a token store. All are of one vocabulary.
        shares: name -> share of the training rows, for every component. They need not sum to 1;
            0.7 and 0.3 are the same shares as 7 and 3. A share of 0 leaves the component out: its
            store is not read, and need not exist.

    Raises:
        UserError: a component without a share, a share without its component, a share that is below
            0 or not finite, none above 0, or a name that cannot stand in the loss table's
            ``share.<component>``.
    """

    components: Mapping[str, str]
    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        for name in self.components:
            if not _NAME.fullmatch(name):
                raise UserError(
                    f"mixture.components: {name!r} cannot name a component; use letters, digits "
                    "and . _ + -"
                )
        for name in self.shares:
            if name not in self.components:
                raise UserError(
                    f"mixture.shares: {name!r} is not in mixture.components, which names "
                    f"{', '.join(self.components) or 'nothing'}; correct one of the two"
                )
        for name in self.components:
            if name not in self.shares:
                raise UserError(
                    f"mixture.shares: no share for {name!r}; give it one (0 leaves it out)"
                )
        _ = self.whole_shares

    @property
    def whole_shares(self) -> dict[str, int]:
        """The shares above 0 as whole numbers without a common divisor, in the order of names."""
        return whole_shares({name: self.shares[name] for name in sorted(self.shares)})

    @property
    def identity(self) -> dict[str, Any]:
        """What enters the run's identity: the components in use by the fingerprints of their
        stores, and their shares of 1.

        Raises:
            NoStore: a component's store does not exist.
        """
        whole = self.whole_shares
        return {
            "__class__": type(self).__name__,
            "components": {name: store_fingerprint(self.components[name]) for name in whole},
            "shares": shares_of_one(whole),
        }


def store_identity(store: str | Mixture) -> str | dict[str, Any]:
    """How ``train.store`` enters a run's identity: by contents, not by places.

    Raises:
        NoStore: a store does not exist.
    """
    return store.identity if isinstance(store, Mixture) else store_fingerprint(store)


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


def shares_of_one(whole: Mapping[str, int]) -> dict[str, float]:
    """Whole shares as parts of 1."""
    return {name: share / sum(whole.values()) for name, share in whole.items()}


def described(shares: Mapping[str, float]) -> str:
    """Shares of 1 as ``pretraining_data`` of the loss table: "python 30% + wiki 70%"."""
    return " + ".join(f"{name} {100 * share:.6g}%" for name, share in sorted(shares.items()))


def mixture_fingerprint(fingerprints: Sequence[str], shares: Sequence[int]) -> str:
    """SHA-256 (hex) of stores and their whole shares, in whatever order; that of one store is its
    own, since its batches are.
    """
    if len(fingerprints) == 1:
        return fingerprints[0]
    parts = sorted(zip(fingerprints, shares, strict=True))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
