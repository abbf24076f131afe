"""The best mixture as text, with the gin bindings that train it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lossline.fits.optimum import TableOptimum
from lossline.mixtures.optimum import mixture_binding


def optimum_text(found: TableOptimum, stores: Mapping[str, str] | None = None) -> str:
    """Return the best mixture as text.

    A table of the shares with their intervals, how flat the goal is, the unconstrained optimum and
    the range of the mixtures trained; then the warnings; then the gin bindings.

    Args:
        found: the best mixture.
        stores: token store of each component; None: the user binds ``mixture.components``.
    """
    best = found.optimum
    named = ", ".join(
        name if len(found.targets) == 1 else f"{name} (weight {weight:g})"
        for name, weight in found.targets.items()
    )
    lines = [
        f"Best mixture for {named}, at {found.params:.3g} parameters and {found.tokens:.3g} tokens "
        f"(law {found.law}):",
        *_table(found),
        f"Predicted {found.measure}: {_value(found, best.value)}{_error(best.error)}; without "
        f"limits and pull: {_value(found, best.free_value)}.",
        *(f"Warning: {warning}" for warning in best.warnings),
        *found.notes,
        "",
        "Train it:",
        "",
        mixture_binding(best.mixture, dict(stores) if stores else None).rstrip(),
    ]
    if not stores:
        lines.append("# and mixture.components = {name: folder of its token store}")
    return "\n".join(lines)


def _table(found: TableOptimum) -> list[str]:
    best, trained = found.optimum, found.runs.shares
    lines = [["component", "share", "90% interval", "nearly as good", "without limits", "trained"]]
    for k, (name, share) in enumerate(best.mixture.items()):
        lines.append(
            [
                name, f"{share:.4f}", _range(best.low[k], best.high[k]),
                _range(best.flat_low[k], best.flat_high[k]), f"{best.free[k]:.3f}",
                _range(trained[:, k].min(), trained[:, k].max()),
            ]
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])],
        )
        for line in lines
    ]


def _range(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if np.isfinite([low, high]).all() else "unknown"


def _value(found: TableOptimum, value: float) -> str:
    return f"{found.sign * value:.4g}"


def _error(error: float) -> str:
    return f" ± {error:.2g} (standard deviation of the refits)" if np.isfinite(error) else ""
