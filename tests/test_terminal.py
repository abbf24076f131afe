"""Long stages report their progress from time to time."""

import pytest

from lossline import terminal


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests advance."""
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_counted_reports_progress_every_few_seconds(clock):
    heard = []
    items = list("abcdefgh")
    for item in terminal.counted(items, heard.append, "letters"):
        clock[0] += 2.0 if item != "h" else 60.0
    assert heard == ["  3 of 8 letters", "  6 of 8 letters"]


def test_quick_stages_report_nothing(clock):
    heard = []
    assert list(terminal.counted("abc", heard.append, "letters")) == ["a", "b", "c"]
    assert heard == []


def test_a_closed_output_is_written_nothing():
    line = terminal.StatusLine(stream=lambda: None)
    line.show("half", last=True)
    line.say("done")
