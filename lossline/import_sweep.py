"""Convert a published sweep, or any table of losses, to a loss table (or a score table).

    python -m lossline.import_sweep kempner --path sweep.csv --out kempner.parquet
    python -m lossline.import_sweep csv --path export.csv --mapping columns.toml --out mine.parquet

SOURCE is kempner, llm_line, gadre, chinchilla, olmo_ladder, perplexity_correlations, or csv. csv
reads any CSV, Parquet or JSON; a mapping file (TOML) gives the column of each value:

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
    accuracy = "eval/hellaswag/acc" # a fraction; percent = true converts percentages
    chance = 0.25                 # accuracy of guessing; needed only for unknown benchmarks
    [sets.tasks]                  # one set per column that matches the pattern; * is its name
    name = "task/*"
    kind = "task"
    accuracy = "eval/*/acc"

--path takes several files, or a folder of files. The columns of JSON (.json files, a folder of
them, or .jsonl) are the nested keys joined by dots:

    join = ["model", "name"]      # joins files about one model by the first of these keys they have
    [columns]
    params = "hyperparameters.params"
    [sets.c4]
    loss = "results[set=c4].loss" # of the list item whose set is c4; ~ instead of =: contains c4

Parts of a file's path are columns too: run_id = "file[*/metrics]" is the folder of each
metrics.csv; join = ["name", "file[evaluation_*_heavy]"] uses the part that matches the *.

gadre reads the source's own folder exp_data/ without a mapping, and other JSON with such a mapping.
olmo_ladder needs a mapping only if its logs have other column names or no column of tokens:

    [columns]
    tokens = "train/tokens"       # or, to compute tokens as step times this:
    batch_size_in_tokens = "gbs"  # (in [constants] if it is the same for all rows)

perplexity_correlations makes a score table (the input of lossline.select) of matrices with one
column per model, named ('family', 'org/name') or plainly. Rows are domains (first column id; bits
per byte) or benchmarks (first column benchmark; errors, LAMBADA's are perplexities; a column
measure states the measure of each row):

    python -m lossline.import_sweep perplexity_correlations --path bpb.csv error.csv --out s.parquet

Rows that cannot be measurements are left out; one line each reports them.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """The verb, with its imports."""
    from lossline.cli.import_command import ImportOptions, import_to_file

    return Verb(options=ImportOptions, run=import_to_file)


FLAGS = {
    "source": Flag("import_sweep.source", "format of the table", "positional"),
    "path": Flag("import_sweep.path", "files, or a folder of files", "values"),
    "out": Flag("import_sweep.out", "table to write, .parquet or .csv"),
    "mapping": Flag(
        "import_sweep.mapping", "for csv, olmo_ladder and gadre in JSON: TOML file of columns"
    ),
}

if __name__ == "__main__":
    run_verb("import_sweep", __doc__, load, flags=FLAGS)
