"""A mixture as the gin bindings that train it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

_DIGITS = 4  # of shares in a binding
_TINY = 1e-9


def mixture_binding(mixture: Mapping[str, float], stores: Mapping[str, str] | None = None) -> str:
    """Return the gin bindings that train a mixture.

    Args:
        mixture: shares by component.
        stores: token store of each component; None: ``mixture.components`` is left to the user.
    """
    lines = ["train.store = @mixture()"]
    if stores is not None:
        lines.append(f"mixture.components = {_as_gin({n: stores[n] for n in mixture})}")
    lines.append(f"mixture.shares = {_as_gin(rounded(mixture))}")
    return "\n".join(lines) + "\n"


def rounded(mixture: Mapping[str, float]) -> dict[str, float]:
    """Return shares with four decimals and sum 1 (largest remainder)."""
    unit = 10**_DIGITS
    exact = np.array(list(mixture.values()), float)
    exact = exact / exact.sum() * unit
    whole = np.floor(exact + _TINY)
    rest = round(float(unit - whole.sum()))
    whole[np.argsort(whole - exact, kind="stable")[:rest]] += 1
    return {name: round(float(w) / unit, _DIGITS) for name, w in zip(mixture, whole, strict=True)}


def _as_gin(tree: Mapping[str, Any]) -> str:
    return "{" + ", ".join(f"{name!r}: {value!r}" for name, value in tree.items()) + "}"
