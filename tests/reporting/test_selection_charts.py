"""Figures of selections."""

import pandas as pd

from lossline.reporting.selections.charts import coefficient_panels


def coefficients(scales, targets=("code", "bio")):
    rows = [
        {"target": target, "method": method, "domain": f"d{number}", "estimate": scale * number,
         "low": scale * (number - 1), "high": scale * (number + 1), "included": number == 3}
        for target in targets
        for method, scale in scales.items()
        for number in range(4)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def limits(figure):
    return {ax.get_title(loc="left"): ax.get_xlim() for ax in figure.axes if ax.lines}


def test_panels_of_one_method_share_their_scale_and_other_methods_have_their_own():
    found = limits(
        coefficient_panels(coefficients({"product": 1.0, "ranks": 0.1}), ["code", "bio"])
    )
    assert found["code, product"] == found["bio, product"]
    assert found["code, ranks"] == found["bio, ranks"]
    assert found["code, ranks"][1] < found["code, product"][1] / 5


def test_panels_of_a_single_method_share_their_scale():
    found = limits(coefficient_panels(coefficients({"ranks": 0.1}), ["code", "bio"]))
    assert len(found) == 2 and found["code"] == found["bio"]
