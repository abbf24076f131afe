"""Implementation of ``python -m lossline.report``: draw the results of a fit again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lossline.files import local_folder
from lossline.fits.files import load_results
from lossline.places import to_path
from lossline.reporting.page_files import page_path
from lossline.reporting.report import write_report


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Options of ``lossline.report``.

    Attributes:
        results: folder that ``lossline.fit`` has written.
        out: folder for report.html and figures/. None: the same folder.
        title: headline of the page.
    """

    results: str
    out: str | None = None
    title: str = "Loss-to-loss report"


def report(options: ReportOptions) -> Path:
    """Write the page and its figures, print the path and return it."""
    results = load_results(options.results)
    out = to_path(options.out or options.results, "report.out")
    page = page_path(out)
    with local_folder(out) as folder:
        write_report(results, folder, title=options.title)
    print(f"Report: {page}")
    return page
