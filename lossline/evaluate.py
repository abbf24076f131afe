"""Measures every checkpoint of every run on every evaluation set, once, into <run>/losses.parquet.

    python -m lossline.evaluate --gin_file=gin_configs/evaluation/quickstart.gin --runs runs/

Run again, it measures what is new. With --watch it follows trainings until they have ended.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    from lossline.evaluation.evaluator import EvaluateOptions, evaluate
    from lossline.evaluation.sets import EvaluationSet
    from lossline.sharding.mesh import MeshOptions

    return Verb(
        options=EvaluateOptions,
        run=evaluate,
        components={"evaluation_set": EvaluationSet, "mesh": MeshOptions},
    )


FLAGS = {
    "runs": Flag("evaluate.runs", "run directories, or folders of them", "values"),
    "watch": Flag("evaluate.watch", "follow trainings until they have ended", "switch"),
}

if __name__ == "__main__":
    run_verb("evaluate", __doc__, load, flags=FLAGS)
