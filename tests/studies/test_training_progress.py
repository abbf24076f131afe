"""The progress line of a study: rate and time left use only the work of this start."""

import dataclasses
import json

import pytest

from lossline.runs.run_directory import MANIFEST
from lossline.studies.planned_run import PlannedRun
from lossline.studies.progress import StudyProgress, last_line, tokens_done, tokens_kept
from lossline.terminal import duration

PER_STEP = 1000  # tokens
STEPS = 100


class Run:
    """A run directory with the files that the progress line reads."""

    def __init__(self, folder):
        self.folder = folder
        self.folder.mkdir()
        (self.folder / "config.json").write_text("{}")
        self.planned = PlannedRun(
            name=folder.name,
            arguments=(),
            folder=folder,
            fingerprint="",
            tokens=STEPS * PER_STEP,
            flops_per_token=1.0,
        )

    def metrics(self, *steps, torn=""):
        rows = [json.dumps({"step": s, "tokens": s * PER_STEP, "loss": 1.5}) for s in steps]
        (self.folder / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows) + torn)

    def checkpoint(self, step):
        (self.folder / "checkpoints" / str(step)).mkdir(parents=True)
        (self.folder / "checkpoints" / str(step) / MANIFEST).write_text("{}")

    def finish(self):
        self.metrics(1, STEPS)
        status = {"state": "finished", "step": STEPS, "message": ""}
        (self.folder / "status.json").write_text(json.dumps(status))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


@pytest.fixture
def line(capsys):
    """``line(progress)``: the line that it shows."""

    def shown(progress, running=("run",)):
        progress._line._shown = -float("inf")
        progress.show(list(running), 0)
        return capsys.readouterr().out.strip()

    return shown


class Clock:
    now = 50.0

    def __call__(self):
        return self.now


def test_metrics_after_the_newest_checkpoint_do_not_count(run, line):
    """The restarted run truncates them. Counting them once gave a negative rate."""
    run.metrics(1, 30, 60)
    run.checkpoint(40)
    clock = Clock()
    progress = StudyProgress([run.planned], now=clock)
    clock.now += 10  # still importing
    assert line(progress) == "0/1 runs, 40% of 0.1M tokens: run"
    run.metrics(1, 30)
    assert line(progress) == "0/1 runs, 40% of 0.1M tokens: run"
    run.metrics(1, 30, 60)
    clock.now += 10
    assert line(progress) == "0/1 runs, 60% of 0.1M tokens: run"
    run.metrics(1, 30, 60, 80)
    clock.now += 10
    assert line(progress) == "0/1 runs, 80% of 0.1M tokens, 2.0k tokens/s, 10 s left: run"


def test_checkpoint_between_two_rows_of_metrics(run, line):
    run.metrics(1, 30)
    run.checkpoint(35)
    clock = Clock()
    progress = StudyProgress([run.planned], now=clock)
    run.metrics(1, 30, 40)
    assert line(progress) == "0/1 runs, 40% of 0.1M tokens: run"
    clock.now += 5
    run.metrics(1, 30, 45)
    assert line(progress) == "0/1 runs, 45% of 0.1M tokens, 1.0k tokens/s, 55 s left: run"


def test_corrupt_newest_checkpoint(run, line):
    """The restarted run moves it aside and continues from the previous one."""
    run.metrics(1, 30, 60)
    run.checkpoint(20)
    run.checkpoint(50)
    clock = Clock()
    progress = StudyProgress([run.planned], now=clock)
    (run.folder / "checkpoints" / "50").rename(run.folder / "checkpoints" / "50.corrupt-0")
    run.metrics(1, 10)
    clock.now += 10
    assert line(progress) == "0/1 runs, 20% of 0.1M tokens: run"
    run.metrics(1, 10, 20, 30)
    assert line(progress) == "0/1 runs, 30% of 0.1M tokens: run"


def test_run_that_starts_from_step_0_again(run, line):
    """The run was killed before its first checkpoint."""
    run.metrics(1, 60)
    clock = Clock()
    progress = StudyProgress([run.planned], now=clock)
    clock.now += 10
    assert line(progress) == "0/1 runs, 0% of 0.1M tokens: run"
    run.metrics()
    assert line(progress) == "0/1 runs, 0% of 0.1M tokens: run"
    run.metrics(1, 10)
    assert line(progress) == "0/1 runs, 10% of 0.1M tokens: run"
    clock.now += 10
    run.metrics(1, 20)
    assert line(progress) == "0/1 runs, 20% of 0.1M tokens, 1.0k tokens/s, 1:20 left: run"


def test_partial_row_of_metrics_is_ignored(run, line):
    run.metrics(1, 20)
    run.checkpoint(20)
    clock = Clock()
    progress = StudyProgress([run.planned], now=clock)
    clock.now += 10
    run.metrics(1, 20, 30, torn='{"step": 40, "tok')
    assert tokens_done(run.planned) == 30 * PER_STEP
    assert line(progress) == "0/1 runs, 30% of 0.1M tokens: run"


def test_runs_finished_earlier_do_not_count_in_the_rate(tmp_path, line):
    before, now = Run(tmp_path / "before"), Run(tmp_path / "now")
    before.finish()
    clock = Clock()
    progress = StudyProgress([before.planned, now.planned], now=clock)
    clock.now += 50
    now.metrics(1, 25)
    assert line(progress, ["now"]) == "1/2 runs, 62% of 0.2M tokens: now"
    now.metrics(1, 50)
    clock.now += 25
    shown = "1/2 runs, 75% of 0.2M tokens, 1.0k tokens/s, 50 s left: now"
    assert line(progress, ["now"]) == shown
    now.finish()
    clock.now += 50
    assert line(progress, ()) == "2/2 runs, 100% of 0.2M tokens, 1.0k tokens/s, 0 s left"


def test_compilation_is_not_extrapolated(tmp_path, line):
    """Two runs at a time of four; each compiles for 60 s and trains for 100 s."""
    runs = [Run(tmp_path / name) for name in "abcd"]
    clock = Clock()
    progress = StudyProgress([run.planned for run in runs], now=clock)
    assert line(progress, "ab").startswith("0/4 runs, 0% of 0.4M tokens: a, b")
    clock.now += 60
    for run in runs[:2]:
        run.metrics(1)
    assert "left" not in line(progress, "ab")
    for seconds in (10, 50):
        clock.now = 50 + 60 + seconds
        for run in runs[:2]:
            run.metrics(1, 1 + seconds)
        left = f"{(320 - 60 - seconds - 1) // 60}:{(320 - 60 - seconds - 1) % 60:02d} left"
        assert f"2.0k tokens/s, {left}: a, b" in line(progress, "ab")
    clock.now = 50 + 159
    for run in runs[:2]:
        run.finish()
    assert "2:40 left: c, d" in line(progress, "cd")
    clock.now += 30  # both compile
    assert "2:10 left: c, d" in line(progress, "cd")


def test_time_left_counts_flops_not_tokens(tmp_path, line):
    small, large = Run(tmp_path / "small"), Run(tmp_path / "large")
    clock = Clock()
    large.planned = dataclasses.replace(large.planned, flops_per_token=9.0)
    progress = StudyProgress([small.planned, large.planned], now=clock)
    small.metrics(1)
    line(progress, ["small"])
    clock.now += 49
    small.metrics(1, 50)
    assert "15:50 left" in line(progress, ["small"])


def test_a_size_has_its_own_rate_and_compiles_once(tmp_path, line):
    """One run at a time; a small one trains 1 step a second, a large one 1 in 5 seconds."""
    runs = {name: Run(tmp_path / name) for name in ("large", "small", "large-2", "small-2")}
    for name in ("large", "large-2"):
        runs[name].planned = dataclasses.replace(runs[name].planned, flops_per_token=2.0)
    clock = Clock()
    for run in runs.values():
        run.folder.rename(tmp_path / f"{run.folder.name} later")
    progress = StudyProgress([run.planned for run in runs.values()], now=clock)

    def train(name, *, compiles, per_step):
        line(progress, [name])
        clock.now += 4  # imports
        (tmp_path / f"{name} later").rename(runs[name].folder)
        line(progress, [name])
        clock.now += compiles
        runs[name].metrics(1)
        line(progress, [name])
        clock.now += 49 * per_step
        runs[name].metrics(1, 50)
        half_way = line(progress, [name])
        clock.now += 50 * per_step
        runs[name].metrics(1, 100)
        line(progress, [name])
        runs[name].finish()
        line(progress, [])
        return half_way

    first = train("large", compiles=30, per_step=5)
    # 50 steps, one run more of this size without compilation, two smaller ones of half the FLOPs.
    assert f"{duration(250 + 4 + 500 + 34 + 250 + 4 + 250)} left" in first
    second = train("small", compiles=20, per_step=1)
    assert f"{duration(50 + 4 + 500 + 4 + 100)} left" in second
    third = train("large-2", compiles=2, per_step=5)
    assert f"{duration(250 + 6 + 100)} left" in third


def test_runs_of_one_size_that_start_together_all_compile(tmp_path, line):
    """Four at a time of eight: imports take 10 s, compilation 60 s, 100 steps 100 s."""
    runs = [Run(tmp_path / str(number)) for number in range(8)]
    for run in runs:
        run.folder.rename(tmp_path / f"{run.folder.name} later")
    clock = Clock()
    progress = StudyProgress([run.planned for run in runs], now=clock)
    line(progress, "0123")
    clock.now += 10
    for run in runs[:4]:
        (tmp_path / f"{run.folder.name} later").rename(run.folder)
    line(progress, "0123")
    clock.now += 60
    for run in runs[:4]:
        run.metrics(1)
    line(progress, "0123")
    clock.now += 49
    for run in runs[:4]:
        run.metrics(1, 50)
    assert f"{duration(50 + 10 + 100)} left" in line(progress, "0123")
    clock.now += 4  # no row meanwhile
    assert f"{duration(50 + 10 + 100 - 4)} left" in line(progress, "0123")


@pytest.mark.parametrize("trained", [0, 30, 100])
def test_a_size_that_has_trained_before_this_start_is_compiled(tmp_path, line, trained):
    """A new run imports for 4 s and compiles for 30 s; two of another size wait."""
    runs = {name: Run(tmp_path / name) for name in ("new", "before", "waits")}
    for name in ("before", "waits"):
        runs[name].planned = dataclasses.replace(runs[name].planned, flops_per_token=3.0)
    if trained:
        runs["before"].metrics(1, trained)
        runs["before"].checkpoint(trained)
    if trained == STEPS:
        runs["before"].finish()
    away = runs["new"].folder.rename(tmp_path / "later")
    clock = Clock()
    progress = StudyProgress([run.planned for run in runs.values()], now=clock)
    line(progress, ["new"])
    clock.now += 4
    away.rename(runs["new"].folder)
    line(progress, ["new"])
    clock.now += 30
    runs["new"].metrics(1)
    line(progress, ["new"])
    clock.now += 59
    runs["new"].metrics(1, 60)
    starts = {0: 34 + 4, 30: 4 + 4, 100: 4}[trained]
    left = 40 + starts + 300 + 3 * (STEPS - trained)
    assert f"{duration(left)} left" in line(progress, ["new"])


@pytest.mark.parametrize("seconds", [0.0, -20.0])
def test_no_rate_without_elapsed_time(run, line, seconds):
    clock = Clock()
    progress = StudyProgress([run.planned], now=clock)
    run.metrics(1, 50)
    clock.now += seconds
    assert line(progress) == "0/1 runs, 50% of 0.1M tokens: run"


def test_missing_files_count_as_zero_tokens(run, tmp_path):
    assert tokens_done(run.planned) == tokens_kept(run.planned) == 0
    assert last_line(tmp_path / "none.log") == ""
