"""Select the pages of a pool that a model should be trained on, for one target or several.

    python -m lossline.select --gin_file=gin_configs/selection/selection.gin

Perplexity correlations find the domains whose losses, over many models, predict the target
(scores.parquet of lossline.score, and the loss tables of the same models), and a classifier ranks
the pages of the pool. Baselines stand in the same place: uniform, language filter, DSIR, a
classifier with given positives, the target's own domain.

The folder gets coefficients.csv (coefficients and weights of the domains), a folder
<target>/<method> for each selection with its pages (pages.parquet) and manifest.json, figures and
report.html. To make a token store of a selection, give lossline.prepare the source @selected(). If
the folder already contains the results of the same inputs, nothing is done.
"""

from lossline.cli.configuration import Flag, Verb, run_verb


def load() -> Verb:
    """Return the verb, with its imports."""
    from lossline import vocabularies
    from lossline.choices.correlation_method import PerplexityCorrelations
    from lossline.choices.targets import Target
    from lossline.cli.select_command import SelectCommand, select
    from lossline.corpora.pools import Pool
    from lossline.pages import methods
    from lossline.pages.fasttext_classifier import FastText
    from lossline.pages.logistic import HashedLogistic
    from lossline.pages.training import TrainingPages

    return Verb(
        options=SelectCommand,
        run=select,
        components={
            "pool": Pool,
            "target": Target,
            "perplexity_correlations": PerplexityCorrelations,
            "page_classifier": methods.PageClassifier,
            "hashed_logistic": HashedLogistic,
            "fast_text": FastText,
            "training_pages": TrainingPages,
            "uniform": methods.Uniform,
            "language_filter": methods.LanguageFilter,
            "dsir": methods.Dsir,
            "positive_classifier": methods.PositiveClassifier,
            "oracle": methods.Oracle,
            "bytes": vocabularies.Bytes,
            "sentencepiece": vocabularies.SentencePiece,
            "huggingface": vocabularies.HuggingFace,
            "tiktoken": vocabularies.Tiktoken,
        },
    )


FLAGS = {
    "scores": Flag("select.scores", "score tables of lossline.score", "values"),
    "losses": Flag(
        "select.losses", "loss tables or folders of runs of the scored models", "values"
    ),
    "out": Flag("select.out", "folder for the results: new, empty or an earlier result"),
    "cluster": Flag("select.cluster", "local, or the address of a Dask scheduler"),
    "replace": Flag("select.replace", "replace an earlier result of other inputs", "switch"),
}

if __name__ == "__main__":
    run_verb("select", __doc__, load, flags=FLAGS)
