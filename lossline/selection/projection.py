"""Turn coefficients into weights of domains: a distribution under caps.

``linear`` maximizes Σ γ_j w_j, ``l2`` minimizes Σ (w_j - γ_j)², both over weights with sum 1 and
0 <= w_j <= τ_j (Thrush et al., arXiv 2409.05816). ``linear`` depends on the order of the
coefficients only, which is all that sign_cdf, sign_sign, spearmanr and gamma estimate.

Domains with a coefficient of 0 or below get no weight unless that is asked for, and domains
without a coefficient (NaN) never do.
"""

from __future__ import annotations

import enum
import math

import numpy as np

from lossline.errors import UserError

Array = np.ndarray

RATIO = 0.1  # share of the pool to select by default; that of the paper's examples
_ROUNDING = 1e-9  # caps may sum to so much less than 1


class Projection(enum.StrEnum):
    """How coefficients become weights."""

    LINEAR = "linear"
    L2 = "l2"


def caps(tokens: Array, ratio: float = RATIO) -> Array:
    """Return the largest weight of each domain (D,) if no text is to be repeated.

    τ_j = (tokens_j / Σ tokens) / ratio: a training that takes the share ``ratio`` of the pool may
    take each domain entirely, and not twice.

    Args:
        tokens: tokens of each domain (D,), in any unit.
        ratio: share of the pool to select, above 0, at most 1.

    Raises:
        UserError: a count is negative or missing, all are 0, or the ratio is out of range.
    """
    tokens = np.asarray(tokens, float)
    if not 0 < ratio <= 1:
        raise UserError(f"caps: ratio = {ratio:g} must be above 0 and at most 1.")
    if not (np.isfinite(tokens).all() and (tokens >= 0).all() and tokens.sum() > 0):
        raise UserError("caps: give each domain its number of tokens, 0 or more, and not all 0.")
    return tokens / tokens.sum() / ratio


def project(
    estimates: Array,
    caps: Array,
    method: str = Projection.LINEAR,
    *,
    negative: bool = False,
) -> Array:
    """Return the weights (D,), which sum to 1 to 1e-12.

    Caps whose sum is below 1 by less than 1e-9 count as 1 and are scaled to it.

    Args:
        estimates: coefficients (D,); NaN: never selected.
        caps: largest weights (D,), 0 or more.
        method: ``linear`` or ``l2``.
        negative: whether domains with coefficients of 0 or below may get weight.

    Raises:
        UserError: the caps of the domains that may be selected sum to less than 1, or a value
            cannot be used.
    """
    estimates, caps = np.asarray(estimates, float), np.asarray(caps, float)
    check(estimates, caps, method)
    room = math.fsum(caps[_usable(estimates, negative)])
    if room < 1 - _ROUNDING:
        raise UserError(_short(estimates, caps, room, negative=negative))
    return fill(estimates, caps, method, negative=negative)


def fill(estimates: Array, caps: Array, method: str, *, negative: bool) -> Array:
    """Return the weights (D,) of ``project`` for inputs that were checked.

    Where the caps of the domains that may be selected sum to less than 1, they are scaled to it.
    """
    chosen = np.flatnonzero(_usable(estimates, negative))
    weights = np.zeros(len(estimates))
    room = math.fsum(caps[chosen])
    if room > 0:
        limits = np.minimum(caps[chosen] / min(room, 1.0), 1.0)
        place = _linear if Projection(method) is Projection.LINEAR else _l2
        weights[chosen] = place(estimates[chosen], limits)
    return weights


def _usable(estimates: Array, negative: bool) -> Array:
    """Return which coefficients may get weight, (D,)."""
    return ~np.isnan(estimates) if negative else estimates > 0


def check(estimates: Array, caps: Array, method: str) -> None:
    """Check the inputs of a projection.

    Raises:
        UserError: unknown method, other shapes than (D,), infinite coefficients, or bad caps.
    """
    if method not in tuple(Projection):
        raise UserError(f"unknown projection {method!r}. Choose from {', '.join(Projection)}.")
    if estimates.ndim != 1 or estimates.shape != caps.shape:
        raise UserError(
            f"projection: coefficients have shape {estimates.shape}, caps {caps.shape}. Give one "
            "of each per domain."
        )
    if np.isinf(estimates).any():
        raise UserError("projection: a coefficient is infinite. Check the losses of its domain.")
    if not (np.isfinite(caps).all() and (caps >= 0).all()):
        raise UserError("projection: a cap is negative or missing. Give each domain a cap >= 0.")


def _linear(estimates: Array, limits: Array) -> Array:
    """Fill the domains up in order of their coefficients; equal ones in the order given."""
    order = np.argsort(-estimates, kind="stable")
    ordered = limits[order]
    # The first domain that is not filled: up to it, the sum stays below 1.
    last = min(int(np.searchsorted(np.cumsum(ordered), 1.0)), len(order) - 1)
    weights = np.zeros(len(estimates))
    weights[order[:last]] = ordered[:last]
    weights[order[last]] = np.clip(1 - math.fsum(ordered[:last]), 0.0, ordered[last])
    return weights


def _l2(estimates: Array, limits: Array) -> Array:
    """Return clip(γ + c, 0, τ) with the c that makes the sum 1.

    The sum is piecewise linear in c and bends where a domain starts to get weight, at c = -γ_j, or
    reaches its cap, at c = τ_j - γ_j. A binary search over the sorted bends finds the piece, on
    which all weights are linear. It ends after log2(2 D) steps whatever the size of γ.
    """
    domains = len(estimates)
    bends = np.argsort(np.concatenate([-estimates, limits - estimates]), kind="stable")

    def at(place: int) -> Array:
        domain, full = bends[place] % domains, bends[place] >= domains
        # γ_j + c as a difference of coefficients: small weights stay exact next to large γ.
        shift = limits[domain] if full else 0.0
        return np.clip(estimates - estimates[domain] + shift, 0.0, limits)

    low, high = 0, len(bends) - 1  # no weight at the lowest bend, all caps reached at the highest
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at(middle).sum() <= 1 else (low, middle)
    below, above = at(low), at(high)
    gap = math.fsum(above) - math.fsum(below)
    share = (1 - math.fsum(below)) / gap if gap > 0 else 0.0
    share = min(max(share, 0.0), 1.0)
    return below + share * (above - below)


def _short(estimates: Array, caps: Array, room: float, *, negative: bool) -> str:
    total = math.fsum(caps[~np.isnan(estimates)])
    if negative or total < 1 - _ROUNDING:
        return (
            f"projection: the caps of all ranked domains sum to {total:.9g}, which is below 1. "
            "Raise the caps: take a smaller share of the pool, or rank more domains."
        )
    domains = int((caps > 0).sum())  # the others are not in the pool
    positive = int(((caps > 0) & (estimates > 0)).sum())
    if not positive:
        return (
            f"projection: none of {domains} domains has a positive coefficient. Score more models, "
            "or allow negative coefficients (negative = True)."
        )
    return (
        f"projection: only {positive} of {domains} domains have a positive coefficient, and their "
        f"caps sum to {room:.4g} of 1. Take a smaller share of the pool (at most "
        f"{_rounded_down(room):g} times the filter_ratio, or ratio of caps), or allow negative "
        "coefficients (negative = True)."
    )


def _rounded_down(share: float) -> float:
    """Return a share above 0 with two digits, not above the share."""
    scale = 10.0 ** (1 - math.floor(math.log10(share)))
    return math.floor(share * scale) / scale
