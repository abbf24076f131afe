"""Methods are compared on the same losses, each unit separately."""

import math

import pandas as pd
import pytest

from lossline.cli.fit_command import verdict
from lossline.fits.results import TableFit
from lossline.lines.common_cases import compare
from lossline.reporting.grids import held_out_grid


def predictions(errors: dict[str, dict[int, float]], unit="loss") -> pd.DataFrame:
    """Return held-out rows of one run: relative error of each method on the sets it answered."""
    return pd.DataFrame(
        {
            "run_id": "big", "x_set": "wiki", "y_set": f"set{case}", "unit": unit,
            "method": method, "measured": 3.0, "predicted": 3.0 * (1 + error),
            "low": math.nan, "high": math.nan, "relative_error": error,
        }
        for method, of in errors.items()
        for case, error in of.items()
    )  # fmt: skip


def said(heldout: pd.DataFrame) -> list[str]:
    table = pd.DataFrame({"status": []})
    text = verdict(TableFit(table=table, heldout=heldout))
    return [line for line in text.splitlines() if line.startswith("Largest runs")]


# The line answers eight losses; the last two are hard. The law answers only the easy ones.
LINE = {**dict.fromkeys(range(6), 0.01), 6: 0.2, 7: 0.3}
LAW = dict.fromkeys(range(6), 0.02)
NEAREST = dict.fromkeys(range(8), 0.05)


def test_medians_use_only_losses_that_all_methods_answered():
    heldout = predictions({"line": LINE, "law": LAW, "nearest run": NEAREST})
    (found,) = compare(heldout)
    assert (found.cases, found.common) == (8, 6)
    assert found.answered == {"line": 8, "nearest run": 8, "law": 6}
    assert found.missing == {"law": 2}
    assert found.rows.groupby("method").size().to_dict() == {"line": 6, "law": 6, "nearest run": 6}
    (text,) = said(heldout)
    assert "in nats per token: line 1.00%, law 2.00%, nearest run 5.00%" in text
    assert "6 of 8 losses" in text and "not predicted: 2 by law" in text


def test_method_without_answers_on_hard_losses_does_not_look_better():
    """A method without an answer on hard losses is compared on the easy ones only.

    There the law errs twice as much as the line. Over all its eleven losses the line's median is
    3%, above the law's 2%.
    """
    easy = {0: 0.01, 1: 0.01, 2: 0.01, 3: 0.01, 4: 0.03, 5: 0.03}
    line = {**easy, **dict.fromkeys(range(6, 11), 0.2)}
    (text,) = said(predictions({"line": line, "law": LAW}))
    assert "line 1.00%, law 2.00%" in text


def test_units_have_separate_medians():
    tokens = predictions({"line": LINE, "law": NEAREST})
    bits = predictions({"line": dict.fromkeys(range(8), 0.07)}, unit="bits_per_byte")
    first, second = said(pd.concat([tokens, bits]))
    assert "nats per token: line 1.00%, law 5.00% (8 losses, the same for all)" in first
    assert "bits per byte: line 7.00% (8 losses" in second


def test_method_with_few_answers_is_compared_separately():
    rare = {6: 0.02, 7: 0.02}
    heldout = predictions({"rare": rare, "nearest run": NEAREST, "line": LINE})
    (found,) = compare(heldout)
    assert found.methods == ["line", "nearest run"]
    assert found.common == 8
    (text,) = said(heldout)
    assert "line 1.00%, nearest run 5.00%" in text
    assert (
        "Rare predicted 2 of 8, too few to compare; on those that the line predicted too: " in text
    )
    assert "line 25.00%" in text and "rare 2.00%" in text
    rows = [[cell.text for cell in row] for row in held_out_grid(heldout).rows]
    assert [row[0] for row in rows] == [
        "line",
        "nearest run",
        "rare",
        "line, on the losses of rare",
    ]
    assert [row[3] for row in rows] == ["8", "8", "2", "2"]


def test_line_without_answers_is_reported():
    gone = dict.fromkeys(range(8), math.nan)
    (text,) = said(predictions({"line": gone, "nearest run": NEAREST}))
    assert "nearest run 5.00%" in text
    assert "not predicted: 8 by line" in text


def test_order_of_rows_has_no_effect():
    heldout = predictions({"line": LINE, "law": LAW, "nearest run": NEAREST, "rare": {0: 0.1}})
    other = heldout.sample(frac=1, random_state=3)
    assert said(heldout) == said(other)


@pytest.mark.parametrize("heldout", [pd.DataFrame(), predictions({"line": {}})])
def test_no_held_out_losses_give_no_comparison(heldout):
    assert compare(heldout) == [] and said(heldout) == []
