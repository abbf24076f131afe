"""A run's loss table is written often enough to lose little work, and costs little time."""

import os
import signal
from pathlib import Path

import pytest

from lossline import tables
from lossline.evaluation import losses
from lossline.evaluation.losses import LOSSES, RunLosses
from lossline.sharding import LaunchOptions
from lossline.sharding.process_group import joined


def row(step: int) -> dict[str, object]:
    return {
        "run_id": "a",
        "eval_set": "wiki",
        "kind": "validation",
        "step": step,
        "nats": 2.0,
        "target_tokens": 1,
        "tokens": step,
    }


def test_writing_takes_at_most_its_share_of_the_time(tmp_path: Path, monkeypatch) -> None:
    now, written = [0.0], []

    def write(frame, path) -> None:
        now[0] += 0.2
        written.append(len(frame))

    monkeypatch.setattr(losses.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tables, "write", write)
    with RunLosses(tmp_path) as table:
        for step in range(200):
            now[0] += 1.0
            table.put([row(step)])
    share = losses._SHARE_OF_WRITING
    assert written[0] == 1, "the first measurement is kept at once"
    assert len(written) - 2 <= share * now[0] / 0.2 <= len(written)
    assert written[-1] == 200


def test_a_table_that_was_left_is_whole(tmp_path: Path) -> None:
    with RunLosses(tmp_path) as table:
        table.put([row(1)])
        table.put([row(2)])
    assert list(tables.read(tmp_path / LOSSES)["step"]) == [1, 2]


def test_sigterm_loses_no_measurement(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(KeyboardInterrupt),
        joined(LaunchOptions(), verb="evaluate"),
        RunLosses(tmp_path) as table,
    ):
        for step in range(5):
            table.put([row(step)])
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    assert list(tables.read(tmp_path / LOSSES)["step"]) == [0, 1, 2, 3, 4]
