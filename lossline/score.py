"""Score every model on every domain of a pool of pages, into a score table.

    python -m lossline.score --gin_file=gin_configs/evaluation/selection_score.gin --runs runs/

Runs are run directories, also those that lossline.convert made of public models. Each row of the
table is one model on one domain: sums of nats, bytes, tokens and pages. A second start continues
after a kill, and scores only new models.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.corpora.pools import Pool
    from lossline.scoring.score_pool import ScoreOptions, score
    from lossline.sharding.mesh import MeshOptions

    return Verb(options=ScoreOptions, run=score, components={"pool": Pool, "mesh": MeshOptions})


FLAGS = {
    "runs": Flag("score.runs", "run directories, or folders of them", "values"),
    "out": Flag("score.out", "score table to write, or a folder for scores.parquet"),
}

if __name__ == "__main__":
    run_verb("score", __doc__, load, flags=FLAGS)
