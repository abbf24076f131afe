"""Which runs next? Plan the runs that narrow one interval most for a budget of training FLOPs.

    python -m lossline.next_runs --table losses.parquet --question line --budget 1e20 \\
        --x_set c4 --y_set hellaswag --out plan
    python -m lossline.next_runs --table losses.parquet --question factor --budget 1e15 \\
        --factor architecture --levels llama mamba --y_set python \\
        --study gin_configs/studies/quickstart.gin --out plan

--question says what is to be known better: line (a loss on the y set at a loss on the x set),
translation (the difference between the lines of two groups), prediction (a loss or score at a size
that nobody has trained), factor (the move between two levels). The plan lists the runs in order,
with parameters, tokens, FLOPs and data, the expected half width of the interval after each, and how
many such runs would halve it. It ends with a grid for lossline.study: with --study, that study with
the runs added; without, a study whose models and token stores you fill in. The folder gets
picks.csv, candidates.csv, plan.json, grid.gin, a figure and report.html. If it already contains the
results of the same inputs, nothing is done.
"""

import functools

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.cli.next_runs_command import NextRunsCommand, next_runs
    from lossline.next_studies.next_grid import grid_of
    from lossline.study import load as load_study

    make_grid = functools.partial(grid_of, load_study)
    return Verb(options=NextRunsCommand, run=functools.partial(next_runs, make_grid=make_grid))


FLAGS = {
    "table": Flag("next_runs.table", "loss tables, run directories, or folders of these", "values"),
    "question": Flag("next_runs.question", "line, translation, prediction or factor"),
    "budget": Flag("next_runs.budget", "training FLOPs of all new runs together", "number"),
    "x_set": Flag("next_runs.x_set", "evaluation set on the x axis"),
    "y_set": Flag("next_runs.y_set", "evaluation set that the question is about"),
    "unit": Flag("next_runs.unit", "loss (nats per token) or bits_per_byte"),
    "metric": Flag("next_runs.metric", "of a prediction: loss, bits_per_byte or accuracy"),
    "group": Flag("next_runs.groups", "groups that the question is about", "values"),
    "factor": Flag("next_runs.factor", "column of the factor"),
    "levels": Flag("next_runs.levels", "the two levels of the factor", "values"),
    "target_params": Flag("next_runs.params", "parameters of the model asked about", "number"),
    "target_tokens": Flag("next_runs.tokens", "training tokens of that model", "number"),
    "target_flops": Flag("next_runs.flops", "its FLOPs, in place of these two", "number"),
    "target_loss": Flag("next_runs.loss", "loss on the x set that is asked about", "number"),
    "candidate": Flag(
        "next_runs.candidates",
        'runs to choose from: "PARAMETERS TOKENS" or "4e8 8e9 pretraining_data=c4"',
        "values",
    ),
    "study": Flag("next_runs.study", "gin file of the study that made the table"),
    "out": Flag("next_runs.out", "folder for the results: new, empty or an earlier result"),
    "replace": Flag("next_runs.replace", "replace an earlier result of other inputs", "switch"),
}

if __name__ == "__main__":
    run_verb("next_runs", __doc__, load, flags=FLAGS)
