"""Laws of mixtures that a file keeps predict the same as those of the table."""

import json

import numpy as np
import planted_mixture_table
import pytest

from lossline.errors import UserError
from lossline.fits.files import write_plain_json
from lossline.fits.mixture_predictor import MixturePredictor, load_any_predictor
from lossline.mixtures.predictions import predict_mixtures
from lossline.prediction import PredictOptions

SHARES = {"web": 0.7, "code": 0.3}


@pytest.fixture(scope="module")
def found():
    table = planted_mixture_table.table(code=(0.1, 0.2, 0.3, 0.4))
    options = PredictOptions(resamples=6, methods=("lossline", "M1"), points=((2e8, 4e9, SHARES),))
    return predict_mixtures(table, options)


def test_a_file_predicts_what_the_table_did(found, tmp_path):
    path = tmp_path / "predictor.json"
    write_plain_json(path, found.predictor)
    predictor = load_any_predictor(path)
    assert isinstance(predictor, MixturePredictor)
    again = predictor.predict(2e8, 4e9, SHARES)
    key = ["method", "task"]
    both = found.predictions.merge(again, on=key, suffixes=("", "_again"))
    assert len(both) == len(found.predictions) == len(again)
    for column in ("predicted", "low_50", "high_90", "extrapolation", "flops"):
        np.testing.assert_allclose(both[column], both[f"{column}_again"], rtol=1e-12)


def test_shares_are_checked(found):
    predictor = MixturePredictor(json.loads(json.dumps(found.predictor)))
    with pytest.raises(UserError, match="'books' is unknown"):
        predictor.predict(2e8, 4e9, {"books": 1.0})


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"what": "predictor of mixtures of lossline.predict"}']
)
def test_something_else_is_no_predictor(text, tmp_path):
    path = tmp_path / "predictor.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"predictor\.json.*predict"):
        load_any_predictor(path)
