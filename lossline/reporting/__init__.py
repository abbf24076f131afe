"""Figures and the report of a study: they read tables and fits, and know nothing of models.

    from lossline.reporting import plot_lines, write_report

The names are imported when first asked for, so that nothing loads Matplotlib without need.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossline.reporting.plots import plot_against, plot_lines, plot_pairs
    from lossline.reporting.report import write_report

__all__ = ["plot_against", "plot_lines", "plot_pairs", "write_report"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "write_report":
        from lossline.reporting import report

        return report.write_report
    from lossline.reporting import plots

    return getattr(plots, name)
