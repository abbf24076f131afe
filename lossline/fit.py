"""Fit the lines of a loss table and attribute what moved them: a table in, a folder out.

    python -m lossline.fit --table runs/ --out runs/fits
    python -m lossline.fit --gin_file=gin_configs/fits/default.gin --table losses.parquet --out fits

--table takes loss tables, run directories, or folders of run directories. The folder gets the fits
as Parquet and JSON (lines, compute laws, attribution, hold-out), the verdict, figures and
report.html. If the folder already contains the results of the same inputs, nothing is done.
"""

from lossline.blas_threads import use_one_blas_thread
from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    use_one_blas_thread()
    from lossline.attribution import AttributionOptions
    from lossline.cli.fit_command import FitCommand, fit_to_folder
    from lossline.lines.estimators import Prior
    from lossline.lines.fitting import LineOptions

    components = {
        "lines": LineOptions,
        "prior": Prior,
        "attribution": AttributionOptions,
    }
    return Verb(options=FitCommand, run=fit_to_folder, components=components)


FLAGS = {
    "table": Flag("fit.table", "loss tables, run directories, or folders of these", "values"),
    "out": Flag("fit.out", "folder for the results: new, empty or an earlier result"),
    "replace": Flag("fit.replace", "replace an earlier result of other inputs", "switch"),
}

if __name__ == "__main__":
    run_verb("fit", __doc__, load, flags=FLAGS)
