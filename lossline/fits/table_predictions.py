"""Predict the runs of a loss table: by scale, and by mixture where the runs have mixtures."""

from __future__ import annotations

import dataclasses

import pandas as pd

from lossline.errors import UserError
from lossline.fits.performance_predictions import performance_predictions
from lossline.fits.usable_runs import usable_runs
from lossline.mixtures.predictions import has_mixtures, predict_mixtures
from lossline.prediction import PredictOptions, predict_table
from lossline.prediction.results import Predictions
from lossline.terminal import Say, silent


def predict_runs(
    table: pd.DataFrame,
    options: PredictOptions | None = None,
    *,
    mixtures: bool = True,
    say: Say = silent,
) -> Predictions:
    """Predict scores by laws of scale; or losses, and accuracies from them, by laws of mixtures.

    Args:
        table: a loss table.
        options: what to predict, and how.
        mixtures: whether a table whose runs differ in their mixtures gets laws of mixtures.
        say: called with a line of progress.

    Raises:
        UserError: nothing can be predicted, or an option names what the table does not have.
    """
    if not (mixtures and has_mixtures(table)):
        return predict_table(table, options, say=say)
    usable, notes = usable_runs(table)
    if usable.empty:
        raise UserError(notes[0])
    options = options or PredictOptions()
    found = predict_mixtures(usable, options, say=say)
    scores = performance_predictions(usable, found, options)
    return dataclasses.replace(
        found,
        predictions=pd.concat([found.predictions, scores], ignore_index=True)
        if len(scores)
        else found.predictions,
        notes=(*notes, *found.notes),
    )
