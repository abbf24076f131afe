"""Measure every checkpoint of every run on every evaluation set, into <run>/losses.parquet.

    python -m lossline.evaluate --gin_file=gin_configs/evaluation/quickstart.gin --runs runs/

A second run measures only new checkpoints and sets. With --watch it measures
new checkpoints of running trainings until they have ended.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.evaluation.evaluator import EvaluateOptions, evaluate
    from lossline.evaluation.sets import EvaluationSet
    from lossline.heap import keep_freed_memory
    from lossline.sharding import LaunchOptions, MeshOptions

    def run(options: EvaluateOptions) -> None:
        keep_freed_memory()
        evaluate(options)

    return Verb(
        options=EvaluateOptions,
        run=run,
        components={
            "evaluation_set": EvaluationSet,
            "mesh": MeshOptions,
            "launch": LaunchOptions,
        },
    )


FLAGS = {
    "runs": Flag("evaluate.runs", "run directories, or folders of them", "values"),
    "watch": Flag(
        "evaluate.watch", "measure new checkpoints until the trainings have ended", "switch"
    ),
}

if __name__ == "__main__":
    run_verb("evaluate", __doc__, load, flags=FLAGS)
