"""Turns a published sweep, or any table of losses, into a loss table.

    python -m lossline.import_sweep kempner --path sweep.csv --out kempner.parquet
    python -m lossline.import_sweep csv --path export.csv --mapping columns.toml --out mine.parquet

SOURCE is kempner, llm_line, gadre, chinchilla, olmo_ladder, or csv: any CSV, Parquet or JSON with a
mapping file (TOML) that says which column is what:

    [columns]                     # loss table column = your column
    run_id = "Name"
    tokens = "train/tokens"
    pretraining_data = "data"
    [constants]                   # the same for every row
    tokenizer = "gpt2"
    [sets.c4]                     # one section per evaluation set
    loss = "eval/c4/loss"         # nats per token; unit = "bits" or "perplexity" converts
    [sets.hellaswag]
    kind = "task"
    loss = "eval/hellaswag/loss"
    accuracy = "eval/hellaswag/acc" # a fraction; percent = true converts
    chance = 0.25                 # accuracy of guessing, where it matters and the name does not say
    [sets.tasks]                  # a pattern: one set per column that matches, the star its name
    name = "task/*"
    kind = "task"
    accuracy = "eval/*/acc"

--path takes several files, or a folder of them. Of JSON (.json files or a folder of them, .jsonl)
the columns are the nested keys joined by dots:

    join = ["model", "name"]      # files that tell of one model: the first of these keys they have
    [columns]
    params = "hyperparameters.params"
    [sets.c4]
    loss = "results[set=c4].loss" # of the item whose set is c4; ~ instead of =: contains c4

What only a file's name says is a column too: run_id = "file[*/metrics]" is the folder of each
metrics.csv, join = ["name", "file[evaluation_*_heavy]"] what the star stands for.

gadre takes the source's own folder exp_data/ as it is, and other JSON with such a mapping.
olmo_ladder takes a mapping where its logs name their columns otherwise or lack their tokens:

    [columns]
    tokens = "train/tokens"       # or, to count tokens = step times this:
    batch_size_in_tokens = "gbs"  # (in [constants] where it is the same for all rows)

Rows that cannot be measurements are set aside, one line each.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """The verb, with its imports."""
    from lossline.cli.import_command import ImportOptions, import_to_file

    return Verb(options=ImportOptions, run=import_to_file)


FLAGS = {
    "source": Flag("import_sweep.source", "where the table comes from", "positional"),
    "path": Flag("import_sweep.path", "files, or a folder of them", "values"),
    "out": Flag("import_sweep.out", "loss table to write, .parquet or .csv"),
    "mapping": Flag(
        "import_sweep.mapping", "for csv, olmo_ladder and gadre in JSON: TOML file of columns"
    ),
}

if __name__ == "__main__":
    run_verb("import_sweep", __doc__, load, flags=FLAGS)
