"""Draw the results of a fit: one self-contained HTML page, and its figures.

    python -m lossline.report runs/quickstart/report
    python -m lossline.report runs/quickstart/report --out=paper --title="Three corpora"

RESULTS is a folder that `python -m lossline.fit` has written. The page is written to the same
folder, or to --out. Only an earlier report of lossline is replaced there.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.cli.report_command import ReportOptions, report

    return Verb(options=ReportOptions, run=report)


FLAGS = {
    "results": Flag("report.results", "folder of a fit", "positional"),
    "out": Flag("report.out", "folder for the page; default: the folder of the fit"),
    "title": Flag("report.title", "headline of the page"),
}

if __name__ == "__main__":
    run_verb("report", __doc__, load, flags=FLAGS)
