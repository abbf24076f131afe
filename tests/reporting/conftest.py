"""Planted studies for the figures and the report."""

import pandas as pd
import pytest

from lossline.reporting.appearance import Appearance
from lossline.reporting.lines import Curve
from tests.reporting import planted


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    return planted.table()


@pytest.fixture(scope="session")
def appearance(table) -> Appearance:
    return Appearance.of(table)


@pytest.fixture(scope="session")
def curves() -> list[Curve]:
    return planted.curves()
