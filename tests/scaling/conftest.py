"""What several tests of scaling need."""

import importlib

import pytest


@pytest.fixture
def experiment(repository, monkeypatch):
    """The modules of experiments/published by name."""
    monkeypatch.syspath_prepend(str(repository / "experiments" / "published"))
    return importlib.import_module
