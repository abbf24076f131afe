"""The line that a training shows, on a terminal and in a log."""

import pytest

from lossline.training.progress import Progress, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def show(progress, clock, steps, seconds_each=1.0):
    for step in steps:
        clock.now += seconds_each
        progress.show(step, loss=1.0, tokens_per_second=1234.0, seconds_left=60.0)


def test_in_a_log_a_line_every_so_often_and_the_last(capsys):
    clock = Clock()
    show(Progress(steps=45, seconds=20, clock=clock), clock, range(1, 46))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/45" for n in (1, 21, 41, 45)]
    assert lines[0] == "step 1/45  loss 1.0000  1,234 tokens/s  1:00 left"
    assert "left" not in lines[-1]


def test_on_a_terminal_one_line_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    clock = Clock()
    progress = Progress(steps=3, seconds=20, clock=clock)
    show(progress, clock, (1, 2))
    progress.say("a message")
    show(progress, clock, (3,))
    written = capsys.readouterr().out
    assert written.count("\r") == 3 and "\na message\n" in written and written.endswith("\n")


def test_quiet(capsys):
    progress = Progress(steps=3, seconds=0, quiet=True)
    progress.show(3, loss=1.0, tokens_per_second=None, seconds_left=None)
    progress.say("nothing")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1:00"), (3725, "1:02:05"), (97 * 3600 + 180, "4 d 01:03")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
