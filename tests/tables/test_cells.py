"""Cells of plain numbers are read at once, with the same result as one by one."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from lossline.tables.cells import TEXT, as_counts, as_numbers, as_text

PLAIN = ["1", "-0", "+3.5", ".5", "7.", "1e3", "1E-3", "9007199254740993", "-9223372036854775808"]
ODD = [
    "", "-", "1-2", ".", "e5", "1e", "1_000", " 8 ", "٣", "inf", "1e999", "nan", "NA", "oops",
    "9223372036854775808", "9223372036854775807.0", True, np.True_, Decimal("2.5"), 4, 2**60 + 1,
    2.5, 3.0, np.float64(6.0), np.int64(2**53 + 1), None, np.nan, np.inf,
]  # fmt: skip


@pytest.mark.parametrize("read", [as_numbers, as_counts], ids=lambda read: read.__name__)
@pytest.mark.parametrize("first", [*PLAIN, *ODD], ids=repr)
def test_a_column_is_read_as_its_cells_one_by_one(read, first):
    """The odd cell in the second column makes each cell be read by itself."""
    for rest in (PLAIN, [4, 2**60 + 1], [0.25, -3.0, np.float64(1e300)]):
        column = pd.Series([first, *rest], dtype=object, name="n", index=range(5, len(rest) + 6))
        alone = read(pd.concat([column, pd.Series(["oops"], index=[99], dtype=object)])).iloc[:-1]
        pd.testing.assert_series_equal(read(column), alone.rename("n"), check_exact=True)


def test_counts_keep_all_digits():
    cells = ["9007199254740993", "-9223372036854775808", "12.0", "1e3", 2**60 + 1, "-7"]
    found = as_counts(pd.Series(cells, dtype=object))
    assert found.tolist() == [2**53 + 1, -(2**63), 12, 1000, 2**60 + 1, -7]
    unusable = ["9223372036854775808", "1.5", "inf", True, None, "x"]
    gone = as_counts(pd.Series(unusable, dtype=object))
    assert gone.isna().all() and gone.dtype == "Int64"


def test_text_stays_text_and_an_empty_string_becomes_an_empty_cell():
    cells = ["1.10", "", None, "NA"]
    for column in (pd.Series(cells, dtype=object), pd.Series(cells, dtype=TEXT)):
        found = as_text(column)
        assert found.dtype == TEXT and found.isna().tolist() == [False, True, True, False]
        assert found.dropna().tolist() == ["1.10", "NA"]


def test_whole_numbers_of_a_categorical_stay_whole_beside_an_empty_cell():
    cells = pd.Series([1, None, 2], dtype="Int64").astype("category")
    assert as_text(cells).tolist()[::2] == ["1", "2"]
    assert as_text(cells).isna().tolist() == [False, True, False]
