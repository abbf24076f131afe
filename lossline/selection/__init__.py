"""Which domains to train on: perplexity correlations (Thrush et al., arXiv 2409.05816).

    matrix = score_matrix(scores.read("scores.parquet"), benchmarks=["arc_easy"])
    coefficients = estimate(matrix.losses, matrix.errors, "spearmanr")     # (domains, benchmarks)
    weights = project(coefficients[:, 0], caps(tokens, ratio=0.1))

``matrices`` holds the scores, ``parts`` cuts them into pieces without missing cells, ``ranks`` and
``estimators`` turn them into coefficients, ``projection`` turns coefficients into weights of
domains.
"""

from lossline.selection.estimators import ESTIMATORS, estimate
from lossline.selection.matrices import ScoreMatrix, score_matrix
from lossline.selection.projection import Projection, caps, project

__all__ = [
    "ESTIMATORS",
    "Projection",
    "ScoreMatrix",
    "caps",
    "estimate",
    "project",
    "score_matrix",
]
