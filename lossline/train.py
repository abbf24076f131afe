"""Trains one model on a token store, or a mixture of several: python -m lossline.train
--gin_file=gin_configs/runs/quickstart.gin

Writes a run directory (checkpoints, metrics, facts); started again, it goes on from the newest
checkpoint, and says so when the run is finished. Options: gin_configs/runs/quickstart.gin lists
those that one usually binds.
"""

from __future__ import annotations

import sys

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Imports what training needs and names the components that a gin file may build."""
    from lossline.training.components import COMPONENTS
    from lossline.training.loop import TrainingFailed, train
    from lossline.training.options import TrainOptions

    def run(options: TrainOptions) -> None:
        try:
            train(options)
        except TrainingFailed as failure:
            sys.exit(f"lossline train: failed: {failure}")

    return Verb(options=TrainOptions, run=run, components=COMPONENTS)


FLAGS = {
    "profile_steps": Flag("train.profile_steps", "first:last, a profiler trace of these steps"),
}

if __name__ == "__main__":
    run_verb("train", __doc__, load, flags=FLAGS)
