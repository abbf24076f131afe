"""Small stores for the tests of this room."""

from pathlib import Path

import pytest

from lossline.data.store_writer import write_store
from lossline.data.token_store import TokenStore
from lossline.data.vocabularies import ByteVocabulary


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents of different lengths with some characters of several bytes."""
    return [f"Document {i}: " + "é語😀 word\n" * (i % 7 + 1) for i in range(40)]


@pytest.fixture
def store(tmp_path: Path, texts: list[str]) -> TokenStore:
    return write_store(tmp_path / "store", texts, ByteVocabulary(), name="small")
