"""Shared fixtures. JAX sees eight virtual CPU devices, so that every mesh can be tested anywhere.

Tests compile many programs and run each only briefly. So LLVM optimization is off, and fusions are
emitted without MLIR, which halves the compile time. XLA still partitions and schedules the same
program. Processes that a test starts with their own environment compile as for a user, unless the
test passes them `QUICK_COMPILATION`.

NumPy's linear algebra uses one thread. Attribution decomposes thousands of small matrices (a few
hundred rows), which threads make slower: up to a hundred times if other work uses the cores.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from quick_compilation import QUICK_COMPILATION
from standing_cluster import StandingCluster

os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=8 {QUICK_COMPILATION}")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy is imported

import pytest
import submitit  # noqa: F401  # closes the handlers of logs; later one would have pytest's stream
from bucket_emulator import bucket, emulator, quick_locks, running

if TYPE_CHECKING:
    from lossline.stores.token_store import TokenStore

__all__ = ["bucket", "emulator", "quick_locks", "running"]  # fixtures

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def published_data() -> Path:
    """Folder of published measurements, which are never part of the repository."""
    folder = Path(os.environ.get("LOSSLINE_PUBLISHED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").exists():
        pytest.skip(f"published measurements absent: {folder} (set LOSSLINE_PUBLISHED_DATA)")
    return folder


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents of different lengths with some characters of several bytes."""
    return [f"Document {i}: " + "é語😀 word\n" * (i % 7 + 1) for i in range(40)]


@pytest.fixture
def store(tmp_path: Path, texts: list[str]) -> TokenStore:
    """A small token store."""
    from lossline.stores.store_writer import write_store
    from lossline.vocabularies import ByteVocabulary

    return write_store(tmp_path / "store", texts, ByteVocabulary(), name="small")


@pytest.fixture(scope="session")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A scheduler with two workers of one thread, for all tests that leave them in order."""
    pytest.importorskip("distributed")
    cluster = StandingCluster(tmp_path_factory.mktemp("dask_cluster"))
    try:
        cluster.start_worker()
        cluster.start_worker()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def harmed_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandingCluster]:
    """A scheduler for tests that start workers and harm them; one death of a worker is enough."""
    pytest.importorskip("distributed")
    cluster = StandingCluster(
        tmp_path_factory.mktemp("harmed_cluster"),
        DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0",
    )
    try:
        yield cluster
    finally:
        cluster.close()
