"""What `python -m lossline.report` does: the results of a fit, drawn again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lossline.fits.files import load_results
from lossline.reporting.report import write_report

__all__ = ["ReportOptions", "report"]


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of `lossline.report`.

    Attributes:
      results: folder that `lossline.fit` has written.
      out: where report.html and figures/ go; the same folder if None.
      title: headline of the page.
    """

    results: str
    out: str | None = None
    title: str = "Loss-to-loss report"


def report(options: ReportOptions) -> Path:
    """Write the page and its figures; print where."""
    results = load_results(options.results)
    page = write_report(results, options.out or options.results, title=options.title)
    print(f"Report: {page}")
    return page
