"""Score every model on every domain of a pool of pages, into a score table.

    python -m lossline.score --gin_file=gin_configs/evaluation/selection_score.gin --runs runs/

Runs are run directories, also those that lossline.convert made of public models. Each row of the
table is one model on one domain: sums of nats, bytes, tokens and pages. A second start continues
after a kill, and scores only new models.

With --tokens, score every token of token stores under one reference model instead: see
python -m lossline.score --tokens --help.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from lossline.cli.configuration import Flag, Loader, Verb, run_verb

TOKENS = """Score every token of token stores under a reference model, for token selection.

    python -m lossline.score --tokens --run runs/reference --stores data/stores/bytes/web/train

Beside each store, a folder gets the nats, the entropy or both of every token, at the windows of
training. A second start continues after a kill.
"""


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.corpora.pools import Pool
    from lossline.scoring.score_pool import ScoreOptions, score
    from lossline.sharding import LaunchOptions, MeshOptions

    return Verb(
        options=ScoreOptions,
        run=score,
        components={"pool": Pool, "mesh": MeshOptions, "launch": LaunchOptions},
    )


def load_tokens() -> Verb:
    """Return the verb of ``--tokens``, with its imports."""
    from lossline.scoring.token_scoring import TokenScoreOptions, score_tokens
    from lossline.sharding import LaunchOptions, MeshOptions

    return Verb(
        options=TokenScoreOptions,
        run=score_tokens,
        components={"mesh": MeshOptions, "launch": LaunchOptions},
        name="token_scores",
    )


FLAGS = {
    "runs": Flag("score.runs", "run directories, or folders of them", "values"),
    "out": Flag("score.out", "score table to write, or a folder for scores.parquet"),
    "cluster": Flag("score.cluster", "local, or the address of a Dask scheduler"),
}
TOKEN_FLAGS = {
    "run": Flag("token_scores.run", "run directory of the reference"),
    "stores": Flag("token_scores.stores", "token stores to score", "values"),
    "out": Flag("token_scores.out", "folder to write; default: beside the store"),
    "cluster": Flag("token_scores.cluster", "local, or the address of a Dask scheduler"),
}


class Form(NamedTuple):
    """What ``run_verb`` takes: ``--tokens`` makes another verb of this one."""

    description: str | None
    load: Loader
    flags: dict[str, Flag]
    arguments: list[str]


def form(arguments: Sequence[str]) -> Form:
    """Return the form of the verb that the arguments ask for."""
    if "--tokens" in arguments:
        rest = [word for word in arguments if word != "--tokens"]
        return Form(TOKENS, load_tokens, TOKEN_FLAGS, rest)
    return Form(__doc__, load, FLAGS, list(arguments))


def main(arguments: Sequence[str]) -> None:
    """Run the verb with the arguments after the program's name."""
    asked = form(arguments)
    foreign = {f"--{name}" for name in TOKEN_FLAGS.keys() - asked.flags.keys()}
    if wrong := [word for word in asked.arguments if word.partition("=")[0] in foreign]:
        print(
            f"lossline score: error: {wrong[0]}: belongs to --tokens. Add --tokens to score every "
            "token of a store, or give --runs to score runs on a pool.",
            file=sys.stderr,
        )
        sys.exit(2)
    run_verb("score", asked.description, asked.load, flags=asked.flags, argv=asked.arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
