"""Families of models: a level of its own for each, which no logarithm or mean may move."""

import json

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.prediction import PredictOptions, load_predictor, predict_table
from lossline.prediction.methods import FamilyLaw
from lossline.prediction.observations import observe
from lossline.prediction.results import Target, TargetKind

LEVEL = {"amber": -0.5, "birch": 0.0, "cedar": 0.6}


def accuracy(family: str, n: float, d: float) -> float:
    """Return a planted accuracy: chance 0.25, exponents 0.2 and 0.15."""
    eta = LEVEL[family] + 0.2 * np.log(n / 1e9) + 0.15 * np.log(d / 1e11)
    return float(0.25 + 0.75 * np.exp(-np.exp(-eta)))


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rows = [
        {
            "run_id": f"{family}-{n:.2g}-{ratio}",
            "architecture": family,
            "params": n,
            "step": 1,
            "tokens": n * ratio,
            "flops": 6 * n * n * ratio,
            "eval_set": "arc_easy",
            "kind": "task",
            "accuracy": accuracy(family, n, n * ratio),
            "status": "ok",
        }
        for family in LEVEL
        for n in (3e8, 1e9, 3e9, 1e10)
        for ratio in (20, 100, 300)
    ]
    return tables.from_rows(rows)


@pytest.fixture(scope="module")
def found(table):
    options = PredictOptions(family="architecture", above_flops=3e22, resamples=30)
    return predict_table(table, options)


def rows_of(found) -> pd.DataFrame:
    return found.predictions[found.predictions["method"] == found.default]


def target(family: str) -> Target:
    return Target(
        name=family, kind=TargetKind.PROJECTION, params=1e10, tokens=3e12, flops=1.8e23,
        group=family,
    )  # fmt: skip


def test_levels_of_families_are_recovered(table):
    small = table[table["flops"] <= 3e22]
    observations = observe(small, PredictOptions(family="architecture"))["arc_easy"]
    law = FamilyLaw().fit(observations, np.ones((1, len(observations.names))))
    predicted = law.predict([target(family) for family in (*LEVEL, "unheard of")])[0]
    for family, value in zip(LEVEL, predicted, strict=False):
        assert value == pytest.approx(accuracy(family, 1e10, 3e12), rel=0.02)
    amber, _, cedar, unheard = predicted
    assert amber < unheard < cedar  # a new family has the common level
    (stage,) = law.stages
    fitted = dict(zip(stage.fit.form.parameters, stage.fit.theta[0], strict=True))
    assert fitted["family cedar"] - fitted["family amber"] == pytest.approx(1.1, abs=0.1)


def test_ours_is_the_geometric_mean_of_the_law_and_fp(found):
    rows = rows_of(found)
    assert len(rows) == 6 and set(rows["status"]) == {"predicted"}
    stages = found.stages[found.stages["method"] == found.default]
    assert list(stages["law"]) == ["family_gompertz", "power_of_score"]
    fitted = json.loads(stages["parameters"].iloc[0])
    assert fitted["family cedar"] - fitted["family amber"] == pytest.approx(1.1, abs=0.1)
    fp = found.predictions[found.predictions["method"] == "fp"].set_index("target")["predicted"]
    for row in rows.itertuples():
        law = accuracy(row.target.split("-")[0], row.params, row.tokens)
        mean = law**0.2 * min(fp[row.target], 1) ** 0.8
        assert row.predicted == pytest.approx(mean, rel=0.01)


def test_a_new_family_lies_between_the_others_without_the_table_too(found):
    predictor = load_predictor(found.predictor)

    def at(family: str) -> float:
        rows = predictor.predict(params=1e10, tokens=3e12, family=family)
        return float(rows.loc[rows["method"] == found.default, "predicted"].iloc[0])

    assert at("amber") < at("unheard of") < at("cedar")


def test_many_families_are_fitted(table):
    """Families have priors, so that they do not count as parameters that points must determine."""
    few = table[table["tokens"] == 20 * table["params"]].copy()
    few["architecture"] = few["run_id"]  # each model is a family of its own
    options = PredictOptions(family="architecture", above_flops=1e22, resamples=0)
    rows = rows_of(predict_table(few, options))
    assert list(rows["status"]) == ["predicted"] * 3, rows["reason"].iloc[0]
