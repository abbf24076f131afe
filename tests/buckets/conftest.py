"""The emulator of buckets, one for all tests here; each test has a bucket of its own."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from bucket_emulator import Emulator, running_emulator

from lossline.buckets import lease

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def running() -> Iterator[Emulator]:
    with running_emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator without faults; libraries are pointed at it, and repeat requests at once."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=sleep))
    running.faults.clear()
    running.seen.clear()
    yield running
    running.faults.clear()
    running.clock_ahead = 0.0


@pytest.fixture
def bucket(emulator: Emulator) -> str:
    """URL of a new bucket."""
    return emulator.make_bucket(f"bucket-{next(_NUMBERS)}")


@pytest.fixture
def quick_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of seconds instead of minutes."""
    monkeypatch.setattr(lease, "RENEW_EVERY", 0.3)
    monkeypatch.setattr(lease, "LEFT_AFTER", 2.0)
    monkeypatch.setattr(lease, "_TRUSTED", 0.5)
