"""Which domains to train on: perplexity correlations (Thrush et al., arXiv 2409.05816).

    matrix = score_matrix(scores.read("scores.parquet"), benchmarks=["arc_easy"])
    found = correlate(matrix, limits=caps(tokens, ratio=0.1))
    found.of("arc_easy")         # coefficients, intervals, how often selected, p-values
    found.weights("arc_easy")    # domain -> share of the training tokens
    heldout_ranks(matrix)        # how well models that were left out are predicted

``matrices`` holds the scores, ``parts`` cuts them into pieces without missing cells, ``ranks`` and
``estimators`` turn them into coefficients, ``projection`` turns coefficients into weights of
domains. ``resampled`` and ``bootstrap`` say how sure the coefficients are, ``significance`` whether
they are more than chance, ``correlations`` joins it all. ``heldout`` predicts models.
"""

from lossline.selection.correlations import Correlations, correlate
from lossline.selection.estimators import ESTIMATORS, estimate
from lossline.selection.heldout import Folds, Method, Predictor, heldout_ranks
from lossline.selection.matrices import ScoreMatrix, score_matrix
from lossline.selection.projection import Projection, caps, project

__all__ = [
    "ESTIMATORS",
    "Correlations",
    "Folds",
    "Method",
    "Predictor",
    "Projection",
    "ScoreMatrix",
    "caps",
    "correlate",
    "estimate",
    "heldout_ranks",
    "project",
    "score_matrix",
]
