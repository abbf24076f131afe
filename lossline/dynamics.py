"""Follow the loss of single tokens over the checkpoints of runs, and sort tokens into four classes.

    python -m lossline.dynamics --gin_file=gin_configs/evaluation/token_dynamics.gin --runs runs/a

A fixed sample of a validation store is measured under every kept checkpoint. Tokens whose loss is
high and stays high (H→H), rises (L→H), falls (H→L) or is low and stays low (L→L) are told apart, as
in Rho-1, by a fixed threshold and by one that is scaled to the noise of each token.

The folder gets tokens.parquet (one row per run and token), classes.csv (shares with intervals),
curves.csv, agreement.csv, excess.csv (with a reference model), figures, report.html and text.html
(text with colored tokens). If the folder already contains the results of the same inputs, nothing
is done.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline import vocabularies
    from lossline.cli.dynamics_command import DynamicsCommand, dynamics
    from lossline.sharding.mesh import MeshOptions

    return Verb(
        options=DynamicsCommand,
        run=dynamics,
        components={
            "mesh": MeshOptions,
            "bytes": vocabularies.Bytes,
            "sentencepiece": vocabularies.SentencePiece,
            "huggingface": vocabularies.HuggingFace,
            "tiktoken": vocabularies.Tiktoken,
        },
    )


FLAGS = {
    "runs": Flag("dynamics.runs", "run directories, or folders of them", "values"),
    "reference": Flag("dynamics.reference", "run directory that excess loss is measured against"),
    "out": Flag("dynamics.out", "folder for the results: new, empty or an earlier result"),
    "replace": Flag("dynamics.replace", "replace an earlier result of other inputs", "switch"),
}

if __name__ == "__main__":
    run_verb("dynamics", __doc__, load, flags=FLAGS)
