"""Held-out cases: runs left out are in neither part; a prediction has no neighbours."""

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.lines.fitting import LineOptions
from lossline.lines.heldout import case_of, hold_out
from lossline.lines.specimens import within_groups
from lossline.tables.continued import fresh

SIZES = np.geomspace(1e7, 1e9, 8)


def study(runs_per_size: int, checkpoints: int, data: str = "wiki") -> pd.DataFrame:
    """Return runs of eight sizes on the sets x and y."""
    random = np.random.default_rng(ord(data[0]))
    rows = []
    for number, size in enumerate(np.repeat(SIZES, runs_per_size)):
        facts = dict(run_id=f"{data}-{number:03d}", architecture="llama", tokenizer="bpe",
                     pretraining_data=data, params=size)  # fmt: skip
        for step in range(1, checkpoints + 1):
            D = 20 * size * step / checkpoints
            x = (1.8 + 400 * size**-0.34 + 400 * D**-0.28) * np.exp(0.003 * random.normal())
            y = 0.9 * (x - 1.3) ** 1.1 + 0.8
            scale = dict(step=step, tokens=D, flops=6 * size * D, kind="validation")
            rows += [{**facts, **scale, "eval_set": n, "loss": v} for n, v in (("x", x), ("y", y))]
    return tables.from_rows(rows)


def case(table: pd.DataFrame, without=()):
    (specimen,) = within_groups(table, x_sets=["x"], y_sets=["y"])
    found = case_of(specimen, 8, without=without)
    assert found is not None and found.specimen.pairs is None
    return found


def test_runs_left_out_are_in_neither_part():
    table = study(2, 4)
    more = table[table["run_id"].isin(["wiki-003", "wiki-015"])]
    more = more.assign(run_id=more["run_id"] + "-more", loss=0.7 * more["loss"], start_run="base")
    both = tables.concat([more, table])
    found, wanted = case(both, without=sorted(set(more["run_id"]))), case(fresh(both))
    for part in ("fitted", "held"):
        for name in ("x", "y", "runs", "params", "tokens", "flops"):
            one, other = (getattr(getattr(c, part), name) for c in (found, wanted))
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("checkpoints", [4, 24])
def test_a_prediction_does_not_depend_on_its_neighbours(checkpoints):
    """The law of 392 points is fitted in a batch, that of 2,352 with its case."""
    options = LineOptions(resamples=0)
    cases = [case(study(2, 4)), case(study(14, checkpoints, "books"))]
    together = hold_out(cases, options)
    apart = pd.concat([hold_out([one], options) for one in cases], ignore_index=True)
    pd.testing.assert_frame_equal(together, apart)
    laws = together[together["method"] == "compute law"]
    assert set(laws["pretraining_data"]) == {"wiki", "books"}
    assert laws["relative_error"].abs().max() < 0.02
