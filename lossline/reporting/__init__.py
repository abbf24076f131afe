"""Figures and the report of a fit. They read tables and fits, and import no model code.

    from lossline.reporting import plot_lines, write_report

Names are imported at first use, so that Matplotlib is loaded only when needed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossline.reporting.plots import plot_against, plot_lines, plot_pairs
    from lossline.reporting.report import write_report

__all__ = ["plot_against", "plot_lines", "plot_pairs", "write_report"]


def __getattr__(name: str) -> Any:
    """Import a public name at first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "write_report":
        from lossline.reporting import report

        return report.write_report
    from lossline.reporting import plots

    return getattr(plots, name)
