"""Compare the levels of a factor: which gives the lowest loss on each target at equal budgets?

    python -m lossline.compare --table losses.parquet --out comparison --factor factor.method
    python -m lossline.compare --gin_file=gin_configs/comparisons/selection.gin \\
        --table losses.parquet --out comparison

Each run counts with its last checkpoint, and all must have equal parameters and tokens.
--gin.compare.at=TOKENS compares earlier checkpoints of runs that are longer. --budget=flops
compares at equal FLOPs, with those of selecting tokens. Runs that differ in their seed only are
replicates: they give intervals, and differences from the baseline are taken seed by seed. The
folder gets methods.csv and Parquet (per target and method: mean, interval, difference, rank),
ranks.csv (average over targets), values.csv (every run), a figure and report.html. If it already
contains the results of the same inputs, nothing is done.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline.cli.compare_command import CompareCommand, compare_to_folder

    return Verb(options=CompareCommand, run=compare_to_folder)


FLAGS = {
    "table": Flag("compare.table", "loss tables, run directories, or folders of these", "values"),
    "out": Flag("compare.out", "folder for the results: new, empty or an earlier result"),
    "factor": Flag("compare.factor", "column whose levels are compared"),
    "by": Flag("compare.by", "column that says which target a run was made for"),
    "budget": Flag("compare.budget", "what must be equal: tokens or flops"),
    "at": Flag("compare.at", "compare the checkpoints at this much of the budget", "number"),
    "baseline": Flag("compare.baseline", "level that the others are compared to"),
    "replace": Flag("compare.replace", "replace an earlier result of other inputs", "switch"),
}

if __name__ == "__main__":
    run_verb("compare", __doc__, load, flags=FLAGS)
