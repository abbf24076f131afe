"""Fitted laws of mixtures without their table: read from JSON, they predict further models."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lossline.mixtures.catalogue import fit_from_dict
from lossline.mixtures.laws import LawFit, predictions
from lossline.mixtures.predictions import PREDICTOR
from lossline.mixtures.runs import shares_of
from lossline.places import to_path
from lossline.prediction import Predictor, load_predictor
from lossline.prediction.intervals import Spread, resampled_variance
from lossline.prediction.predictor import interval_columns


@dataclasses.dataclass(frozen=True)
class MixturePredictor:
    """Fitted laws of mixtures, of all domains.

    Attributes:
        tree: the JSON tree of ``Predictions.predictor``.
    """

    tree: Mapping[str, Any]

    def predict(self, params: float, tokens: float, shares: Mapping[str, float]) -> pd.DataFrame:
        """Return one row per law and domain, with the columns of ``Predictor.predict``.

        Args:
            params: N.
            tokens: D.
            shares: share by component; components not named get 0.

        Raises:
            UserError: a component is unknown, or the shares do not sum to 1.
        """
        flops = 6.0 * params * tokens * self.tree["flops_ratio"]
        extrapolation = flops / self.tree["largest_flops"]
        rows = []
        for name, entry in self.tree["laws"].items():
            fit = fit_from_dict(entry["fit"])
            if not isinstance(fit, LawFit):
                raise TypeError(f"{name}: not a law of N and D")
            theta = np.concatenate(
                [fit.theta[None], np.array(entry["refits"]).reshape(-1, *fit.theta.shape)]
            )
            draws = predictions(
                fit, theta, shares_of(shares, fit.components), params, tokens, flops
            )
            for j, domain in enumerate(fit.domains):
                variance = resampled_variance(draws[:, :, j], "loss", self.tree["runs"])
                spread = Spread(**entry["spread"])
                rows.append(
                    {
                        "group": "",
                        "method": name,
                        "task": domain,
                        "metric": self.tree["units"][domain],
                        "params": params,
                        "tokens": tokens,
                        "flops": flops,
                        "extrapolation": extrapolation,
                        **interval_columns(
                            draws[0, 0, j], variance[0], extrapolation, spread, "loss"
                        ),
                    }
                )
        return pd.DataFrame(rows)


def load_any_predictor(path: str | os.PathLike[str]) -> Predictor | MixturePredictor:
    """Return the predictor that ``python -m lossline.predict`` wrote, of scale or of mixtures.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        tree = json.loads(to_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        tree = None
    if isinstance(tree, dict) and tree.get("what") == PREDICTOR and tree.get("laws"):
        return MixturePredictor(tree)
    return load_predictor(path)
