"""Names of runs and levels, and the order of rows, have no effect on ``fit_table``."""

import numpy as np
import pandas as pd
import pytest

from lossline.attribution import AttributionOptions
from lossline.fits.fitting import TableFitOptions, fit_table
from lossline.fits.results import TableFit
from lossline.lines.fitting import LineOptions
from tests.planted_study import Study

OPTIONS = TableFitOptions(
    x_sets=("legal",),
    units=("loss",),
    lines=LineOptions(resamples=20),
    attribution=AttributionOptions(resamples=0),
    law_resamples=20,
)
LEVELS = {"llama": "zebra", "mamba": "ant"}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Return two architectures, two sizes of two seeds each."""
    whole = Study(seeds=2, sets={"legal": 0.0, "wiki": 0.3}).table()
    keep = (whole.tokenizer == "bpe") & (whole.schedule == "cosine")
    return whole[keep & (whole.pretraining_data == "wiki")].reset_index(drop=True)


@pytest.fixture(scope="module")
def results(table) -> TableFit:
    return fit_table(table, OPTIONS)


@pytest.fixture(scope="module")
def again(table) -> TableFit:
    """Return a fit of the same measurements with other names of runs and levels, rows shuffled."""
    runs = table.run_id.unique()
    names = dict(zip(runs, np.random.default_rng(0).permutation(runs), strict=True))
    other = table.assign(
        run_id=table.run_id.map(names), architecture=table.architecture.map(LEVELS)
    )
    return fit_table(other.sample(frac=1, random_state=1).reset_index(drop=True), OPTIONS)


def test_names_have_no_effect_on_laws_and_their_intervals(results, again):
    others = {(law.group["architecture"], law.eval_set): law for law in again.compute_laws}
    assert any(np.isfinite(law.E_low) for law in results.compute_laws)
    for law in results.compute_laws:
        other = others[LEVELS[law.group["architecture"]], law.eval_set]
        assert law.parameters == other.parameters
        np.testing.assert_array_equal([law.E_low, law.E_high], [other.E_low, other.E_high])


def test_names_have_no_effect_on_lines(results, again):
    others = {(line.group["architecture"], line.y_set): line for line in again.lines}
    for line in results.lines:
        other = others[LEVELS[line.group["architecture"]], line.y_set]
        assert (line.parameters, line.scatter) == (other.parameters, other.scatter)
        np.testing.assert_array_equal(line.draws, other.draws)


def test_names_have_no_effect_on_held_out_predictions(results, again):
    def rows(heldout: pd.DataFrame) -> pd.DataFrame:
        order = ["method", "y_set", "measured"]
        return heldout.sort_values(order)[[*order, "predicted"]].reset_index(drop=True)

    assert len(results.heldout)
    pd.testing.assert_frame_equal(rows(results.heldout), rows(again.heldout), check_exact=True)
