"""Groups of runs: facts keep their types."""

import pandas as pd

from lossline.lines.groups import split


def test_whole_numbers_beside_fractions_stay_whole():
    table = pd.DataFrame(
        {
            "vocab": pd.array([2**60 + 1, None, 2**60 + 2, 2**60 + 1], dtype="Int64"),
            "exponent": [1.5, 1.5, 1.5, 1.5],
            "eval_set": list("abcd"),
        }
    )
    found = {
        tuple(g.facts.values()): list(g.table["eval_set"]) for g in split(table, list(table)[:2])
    }
    assert found == {
        (2**60 + 1, 1.5): ["a", "d"],
        (2**60 + 2, 1.5): ["c"],
        (None, 1.5): ["b"],
    }
    assert all(type(vocab) is int for vocab, _ in found if vocab is not None)
