"""The progress line of an evaluation: rate and time left exclude waiting."""

import pytest

from lossline.evaluation.progress import EvaluationProgress


class Clock:
    now = 3.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def line(clock, capsys):
    """``line(progress, tokens)``: the line after so many more tokens."""

    def shown(progress, tokens):
        progress._shown = -float("inf")
        progress.advance(tokens, "run step 5")
        return capsys.readouterr().out.strip()

    return shown


def test_rate_and_time_left(clock, line):
    progress = EvaluationProgress(clock=clock)
    progress.expect(50_000)
    progress.expect(50_000)
    clock.now += 100  # restoring and compiling
    progress.start()
    clock.now += 10
    said = line(progress, 25_000)
    assert said == "evaluate  25%  2k tokens/s  10 s gone, about 30 s to go  run step 5"


@pytest.mark.parametrize("seconds", [0.0, -4.0, None])
def test_no_rate_without_elapsed_time(clock, line, seconds):
    progress = EvaluationProgress(clock=clock)
    progress.expect(100)
    if seconds is not None:
        progress.start()
        clock.now += seconds
    assert line(progress, 25) == "evaluate  25%  run step 5"


def test_waiting_for_a_checkpoint_does_not_count(clock, line):
    progress = EvaluationProgress(clock=clock)
    for wait in (0, 3600):
        clock.now += wait
        progress.expect(100_000)
        progress.start()
        clock.now += 10
        said = line(progress, 50_000)
        assert said == "evaluate  50%  5k tokens/s  10 s gone, about 10 s to go  run step 5"
        clock.now += 10
        line(progress, 50_000)


def test_time_left_is_0_at_the_end(clock, line):
    progress = EvaluationProgress(clock=clock)
    progress.expect(10_000)
    progress.start()
    clock.now += 10
    assert "about 0 s to go" in line(progress, 10_000)
    assert "about 0 s to go" in line(progress, 10_000)  # more tokens than expected


def test_no_time_left_while_compilation_is_most_of_the_time(clock, line):
    progress = EvaluationProgress(clock=clock)
    for _ in range(2):  # each count begins anew
        progress.expect(1_000_000)
        progress.start()
        said = []
        for seconds, tokens in (
            (20, 1_000),
            (10, 10_000),
            (10, 10_000),
            (1, 879_000),
            (1, 100_000),
        ):
            clock.now += seconds
            said.append(line(progress, tokens))
        assert said[0] == "evaluate   0%  0k tokens/s  20 s gone  run step 5"
        assert "to go" not in said[1]
        assert "1k tokens/s  40 s gone, about 31:05 to go" in said[2]
        assert "about 5 s to go" in said[3]


def test_a_tenth_of_the_work_tells_the_time_left(clock, line):
    progress = EvaluationProgress(clock=clock)
    progress.expect(100_000)
    progress.start()
    clock.now += 600
    assert "10:00 gone, about 1:30:00 to go" in line(progress, 10_000)
