"""Run a study from text to report: gather, prepare, train the grid, evaluate, fit the lines.

    python -m lossline.study --gin_file=gin_configs/studies/quickstart.gin

Run the same command again to continue an interrupted study. --dry_run prints what would run.
--submit=slurm submits the trainings as Slurm jobs, --submit=skypilot writes SkyPilot task files.
--status shows how far every run is. For every other scheduler, --commands prints the command of
every unfinished training, one per line:

    python -m lossline.study --gin_file=STUDY.gin --commands | parallel
"""

import os
import sys

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.studies.grid import Axis, Chain, Listed, Product, Zip
    from lossline.studies.random_mixtures import RandomMixtures
    from lossline.studies.skypilot import SkyOptions
    from lossline.studies.slurm import SlurmOptions
    from lossline.studies.study import Command, StudyOptions

    return Verb(
        options=StudyOptions,
        run=_run,
        components={
            "axis": Axis,
            "product": Product,
            "zip": Zip,
            "chain": Chain,
            "listed": Listed,
            "random_mixtures": RandomMixtures,
            "command": Command,
            "slurm": SlurmOptions,
            "sky": SkyOptions,
        },
    )


def _run(options: object) -> None:
    from lossline.child_process import die_with_parent
    from lossline.studies.processes import ChildFailed
    from lossline.studies.study import run_study
    from lossline.workers import sigterm_interrupts

    if os.environ.get("LOSSLINE_DIE_WITH_PARENT"):
        die_with_parent(os.getppid())
    try:
        with sigterm_interrupts():
            run_study(options)  # type: ignore[arg-type]
    except ChildFailed as error:
        print(f"lossline study: {error}", file=sys.stderr)
        sys.exit(1)


FLAGS = {
    "dry_run": Flag("study.dry_run", "print what would run, and stop", "switch"),
    "commands": Flag(
        "study.commands", "print the commands of the unfinished trainings, and stop", "switch"
    ),
    "submit": Flag("study.submit", "train elsewhere: slurm, skypilot or local"),
    "status": Flag("study.status", "print the state of every run, and stop", "switch"),
    "json": Flag("study.json", "with --status: one JSON object for each run", "switch"),
}

if __name__ == "__main__":
    run_verb("study", __doc__, load, flags=FLAGS)
