"""Predict benchmark scores of large models from checkpoints of small ones (FLP and others).

Path of a prediction: ``observations`` reads the checkpoints of a task out of a loss table,
``methods`` fits laws from scale to the score, in one stage (``direct_forms``) or two
(``scale_forms``, then ``score_forms``), ``backtest`` fits them to the smaller runs to see how far
off they are on the larger ones, ``intervals`` makes intervals of that, ``predict`` joins it all.
``gadre`` is the published two-step law of average error.
"""

from lossline.prediction.options import PredictOptions
from lossline.prediction.predict import predict_table
from lossline.prediction.predictor import Predictor, load_predictor

__all__ = ["PredictOptions", "Predictor", "load_predictor", "predict_table"]
