"""Predict what a larger model will score, from the checkpoints of smaller ones.

    python -m lossline.predict --table losses.parquet --out predictions
    python -m lossline.predict --table losses.parquet --out predictions --target big-run
    python -m lossline.predict --table losses.parquet --out predictions --point "7e9 4e12"
    python -m lossline.predict --predictor predictions/predictor.json --point "7e9 4e12"
    python -m lossline.predict --table losses.parquet --optimum humaneval --point "7e9 4e12"

--table takes loss tables, run directories, or folders of run directories. A run of the table is
predicted from the others and its error is shown (prediction); a point, parameters and tokens, is a
model that nobody has trained (projection). Without either, the run of most compute is predicted.
The folder gets predictions.csv and Parquet, backtest.csv, the fitted predictor as JSON (not of
mixtures), figures and report.html. If it already contains the results of the same inputs, nothing
is done.

If the runs differ in their mixtures, losses at other sizes and mixtures are predicted (a point then
needs shares), and --optimum prints the best mixture for its targets, with the bindings that train
it.
"""

from lossline.blas_threads import use_one_blas_thread
from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    use_one_blas_thread()
    from lossline.cli.predict_command import PredictCommand, predict
    from lossline.mixtures.limits import Limits
    from lossline.mixtures.optimum import Pull

    components = {"limits": Limits, "pull": Pull}
    return Verb(options=PredictCommand, run=predict, components=components)


FLAGS = {
    "table": Flag("predict.table", "loss tables, run directories, or folders of these", "values"),
    "out": Flag("predict.out", "folder for the results: new, empty or an earlier result"),
    "target": Flag("predict.targets", "runs to leave out and predict", "values"),
    "point": Flag(
        "predict.points",
        'models that nobody has trained: "PARAMETERS TOKENS" or "7e9 4e12 web=0.8 code=0.2"',
        "values",
    ),
    "exclude": Flag("predict.exclude", "runs to leave out of everything", "values"),
    "predictor": Flag("predict.predictor", "predictor.json of an earlier result; replaces --table"),
    "optimum": Flag("predict.optimum", "targets to print the best mixture for", "values"),
    "replace": Flag("predict.replace", "replace an earlier result of other inputs", "switch"),
}

if __name__ == "__main__":
    run_verb("predict", __doc__, load, flags=FLAGS)
