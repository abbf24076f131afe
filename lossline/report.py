"""Draws the results of a fit: one HTML page that needs nothing else, and its figures.

    python -m lossline.report runs/quickstart/fit
    python -m lossline.report runs/quickstart/fit --out=paper --title="Three corpora"

RESULTS is a folder that `python -m lossline.fit` has written. The page goes into the same folder
unless --out says otherwise; a report that lossline wrote before is replaced, nothing else ever is.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """The verb, with its imports."""
    from lossline.cli.report_command import ReportOptions, report

    return Verb(options=ReportOptions, run=report)


FLAGS = {
    "results": Flag("report.results", "folder of a fit", "positional"),
    "out": Flag("report.out", "where the page goes"),
    "title": Flag("report.title", "headline of the page"),
}

if __name__ == "__main__":
    run_verb("report", __doc__, load, flags=FLAGS)
