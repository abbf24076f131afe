"""Planted studies for the tests of attribution."""

import pytest
from planted_study import Study


@pytest.fixture
def study() -> type[Study]:
    return Study
