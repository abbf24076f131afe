"""Turns a published sweep, or any table of losses, into a loss table.

    python -m lossline.import_sweep kempner --path sweep.csv --out kempner.parquet
    python -m lossline.import_sweep csv --path export.csv --mapping columns.toml --out mine.parquet

SOURCE is kempner, llm_line, gadre, chinchilla, olmo_ladder, or csv: any CSV or Parquet file with a
mapping file (TOML) that says which column is what:

    [columns]                     # loss table column = your column
    run_id = "Name"
    tokens = "train/tokens"
    pretraining_data = "data"
    [constants]                   # the same for every row
    tokenizer = "gpt2"
    [sets.c4]                     # one section per evaluation set
    loss = "eval/c4/loss"         # nats per token; unit = "bits" converts
    [sets.hellaswag]
    kind = "task"
    loss = "eval/hellaswag/loss"
    accuracy = "eval/hellaswag/acc"
    chance = 0.25                 # accuracy of guessing, where it matters and the name does not say

--path takes several files, or a folder of them. Rows that cannot be measurements are set aside, one
line each.
"""

from lossline.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """The verb, with its imports."""
    from lossline.tables.importing import ImportOptions, import_to_file

    return Verb(options=ImportOptions, run=import_to_file)


FLAGS = {
    "source": Flag("import_sweep.source", "where the table comes from", "positional"),
    "path": Flag("import_sweep.path", "files, or a folder of them", "values"),
    "out": Flag("import_sweep.out", "loss table to write, .parquet or .csv"),
    "mapping": Flag("import_sweep.mapping", "for csv: TOML file of columns"),
}

if __name__ == "__main__":
    run_verb("import_sweep", __doc__, load, flags=FLAGS)
