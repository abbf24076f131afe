"""Fixtures shared by the tests of lines."""

import importlib

import pytest


@pytest.fixture
def experiment(repository, monkeypatch):
    """The modules of experiments/published and experiments/lines by name."""
    for folder in ("published", "lines"):
        monkeypatch.syspath_prepend(str(repository / "experiments" / folder))
    return importlib.import_module
