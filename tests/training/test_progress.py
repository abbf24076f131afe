"""The progress line of a training, on a terminal and in a log."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from lossline.sharding import MeshOptions, make_mesh
from lossline.terminal import duration
from lossline.training import loop
from lossline.training.progress import StepProgress


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def show(progress, clock, steps, seconds_each=1.0):
    for step in steps:
        clock.now += seconds_each
        progress.show_step(step, loss=1.0, tokens_per_second=1234.0, seconds_left=60.0)


def test_log_gets_a_line_per_interval_and_the_last_line(capsys):
    clock = Clock()
    show(StepProgress(steps=45, seconds=20, clock=clock), clock, range(1, 46))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/45" for n in (1, 21, 41, 45)]
    assert lines[0] == "step 1/45  loss 1.0000  1,234 tokens/s  1:00 left"
    assert "left" not in lines[-1]


def test_terminal_line_is_rewritten(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    clock = Clock()
    progress = StepProgress(steps=3, seconds=20, clock=clock)
    show(progress, clock, (1, 2))
    progress.say("a message")
    show(progress, clock, (3,))
    written = capsys.readouterr().out
    assert written.count("\r") == 4 and "\x1b[2Ka message\n" in written and written.endswith("\n")


def test_quiet_prints_nothing(capsys):
    progress = StepProgress(steps=3, seconds=0, quiet=True)
    progress.show_step(3, loss=1.0, tokens_per_second=None, seconds_left=None)
    progress.say("nothing")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (60, "1:00"), (3725, "1:02:05"), (97 * 3600 + 180, "4 d 01:03")],
)
def test_duration_as_text(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def reporter(options, monkeypatch):
    """A reporter of a run of 12 steps of 256 tokens, with a clock that the test sets."""
    job = SimpleNamespace(
        options=options(),
        first=False,
        mesh=make_mesh(MeshOptions(data=8)),
        trainer=SimpleNamespace(metric_names=("loss", "gradient_norm", "parameter_norm")),
        trained_tokens=0,
        progress=StepProgress(steps=12, seconds=0.0),
    )
    made = loop._Reporter(job)
    made.now = 100.0
    monkeypatch.setattr(loop.time, "monotonic", lambda: made.now)
    return made


def report(reporter, step, now):
    reporter.now = now
    reporter._report(step, jnp.ones(3))


def test_rate_and_time_left_after_a_resume_use_only_this_start(reporter, capsys):
    """Steps 1 to 6 were trained by an earlier start."""
    for step, now in ((7, 100.0), (8, 102.0), (9, 104.0)):
        report(reporter, step, now)
    assert capsys.readouterr().out.splitlines() == [
        "step 7/12  loss 1.0000",
        "step 8/12  loss 1.0000  128 tokens/s  8 s left",
        "step 9/12  loss 1.0000  128 tokens/s  6 s left",
    ]


@pytest.mark.parametrize("last", [104.0, 104.00001, 90.0])
def test_last_step_does_not_change_the_rate(reporter, capsys, last):
    """Its metrics may arrive with those of the step before, with no time between them."""
    for step, now in ((10, 100.0), (11, 104.0), (12, last)):
        report(reporter, step, now)
    assert capsys.readouterr().out.splitlines()[-1] == "step 12/12  loss 1.0000  64 tokens/s"


def test_single_step_has_no_rate(reporter, capsys):
    report(reporter, 12, 100.0)
    assert capsys.readouterr().out == "step 12/12  loss 1.0000\n"


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_no_rate_without_elapsed_time(reporter, capsys, seconds):
    report(reporter, 11, 100.0)
    report(reporter, 12, 100.0 + seconds)
    assert capsys.readouterr().out.splitlines()[-1] == "step 12/12  loss 1.0000"
