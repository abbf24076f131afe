"""The question "prediction": the loss or score of a model that nobody has trained."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from lossline.design.asked import Asked, Places, check_groups_of, of_groups, single
from lossline.design.beliefs import Belief
from lossline.design.candidates import model_asked, runs_of
from lossline.design.plan import Candidate, DesignOptions, Interval, Target
from lossline.design.scale_law import ScaleLaw
from lossline.errors import UserError
from lossline.mixtures.predictions import has_mixtures
from lossline.tables.schema import Unit


def ask_prediction(
    rows: pd.DataFrame, target: Target, candidates: Sequence[Candidate], options: DesignOptions
) -> Asked:
    """Return the question with numbers.

    Args:
        rows: measured rows of a loss table.
        target: the question.
        candidates: runs to choose from.
        options: options of the design.

    Raises:
        UserError: the law cannot be fitted, the target names no model, or a candidate belongs to
            another group.
    """
    if has_mixtures(rows):
        raise UserError(
            "target.shares: the runs were trained on mixtures. Give the mixture that is asked "
            'about, e.g. {"web": 0.8, "code": 0.2}.'
        )
    (own,) = of_groups(rows, target.groups, count=1)
    check_groups_of(candidates, target.groups)
    model = model_asked(runs_of(own), target)
    if model is None:
        raise UserError("target: a prediction needs a model. Give params and tokens, or flops.")
    metric = target.metric or str(target.unit)
    law = ScaleLaw.of(own, target.y_set, metric, options)
    places = Places.of([model, *candidates])
    found = law.at(places)
    low, high = law.interval(Places.of([model]), options.level)
    return Asked(
        words=f"the {metric} on {target.y_set} of a model of {model.params:.3g} parameters and "
        f"{model.tokens:.3g} tokens, predicted from {law.runs} runs",
        unit="share of the questions" if metric == "accuracy" else Unit(metric).words,
        now=Interval(value=float(found.center[0]), low=low, high=high),
        belief=Belief.of(found, options.roughness),
        choices=single(candidates),
    )
