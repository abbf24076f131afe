"""Train one model on a token store, or on a mixture of several.

    python -m lossline.train --gin_file=gin_configs/runs/quickstart.gin \\
        --gin_file=gin_configs/models/quickstart_llama.gin \\
        --gin.train.store=data/stores/bpe4096/wiki/train

Writes a run directory: checkpoints, metrics, facts. Run the same command again to continue an
interrupted run from its newest checkpoint; a finished run is left as it is. The header of
gin_configs/runs/quickstart.gin lists the options that are often changed. --dry_run says what the
training costs on this machine, and starts nothing.
"""

from __future__ import annotations

import sys

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports and the components that a gin file may build."""
    from lossline.compilation.dry_run import print_cost
    from lossline.heap import keep_freed_memory
    from lossline.training.components import COMPONENTS
    from lossline.training.loop import TrainingFailed, train
    from lossline.training.options import TrainOptions
    from lossline.training.step import one_step_at_a_time

    def run(options: TrainOptions) -> None:
        keep_freed_memory()
        one_step_at_a_time()
        if options.dry_run:
            print_cost(options)
            return
        try:
            train(options)
        except TrainingFailed as failure:
            sys.exit(f"lossline train: failed: {failure}")

    return Verb(options=TrainOptions, run=run, components=COMPONENTS)


FLAGS = {
    "dry_run": Flag(
        "train.dry_run", "print parameters, FLOPs, memory, speed, time and disk, and stop", "switch"
    ),
    "profile_steps": Flag(
        "train.profile_steps", "first:last: write a profiler trace of these steps"
    ),
}

if __name__ == "__main__":
    run_verb("train", __doc__, load, flags=FLAGS)
