"""Child processes of a study: status is checked, logs are kept, none outlives the study."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from code_job import Code

from lossline.errors import UserError
from lossline.studies.processes import ChildFailed, Job, run, run_many, start
from lossline.studies.progress import LogProgress


def job(name: str, code: str) -> Job:
    """Return a job that runs Python code instead of a verb."""

    return Code(name=name, verb="code", arguments=[code])


def test_job_without_output_is_shown_as_starting(tmp_path: Path, capsys) -> None:
    """The first log line is the command, which is longer than a terminal line; it is not shown."""
    progress = LogProgress(tmp_path)
    for said, shown in (("", "starting"), ("1 of 9\r2 of 9\n", "2 of 9")):
        (tmp_path / "evaluate-1.log").write_text(f"$ python -m lossline.evaluate\n{said}")
        progress.show(["evaluate-1"], 0)
        progress = LogProgress(tmp_path)  # a new object, because a line was printed just now
        assert capsys.readouterr().out == f"  evaluate-1: {shown}\n"


def test_all_jobs_run_and_are_counted(tmp_path: Path) -> None:
    seen: list[tuple[list[str], int]] = []
    jobs = [job(f"j{i}", f"print({i})") for i in range(4)]
    run_many(
        jobs,
        logs=tmp_path,
        at_once=2,
        tick=lambda running, done: seen.append((running, done)),
        seconds=0.02,
    )
    assert seen[-1] == ([], 4)
    assert max(len(running) for running, _ in seen) == 2
    assert [(tmp_path / f"j{i}.log").read_text().splitlines()[-1] for i in range(4)] == list("0123")


def test_the_log_begins_with_a_command_that_a_shell_reads(tmp_path: Path) -> None:
    arguments = ["--gin.evaluate.runs=['runs/a', 'runs/b']", "--gin.train.name='a b'"]
    evaluate = Job(name="e", verb="evaluate", arguments=arguments)
    start(evaluate, tmp_path, None).wait()
    first = (tmp_path / "e.log").read_text().splitlines()[0]
    assert shlex.split(first) == ["$", *evaluate.command]


def test_the_caller_chooses_the_next_job_whenever_one_ends(tmp_path: Path) -> None:
    seen: list[str] = []
    jobs = [job(f"j{i}", "") for i in range(3)]
    run_many(
        jobs,
        logs=tmp_path,
        at_once=1,
        tick=lambda running, _: seen.extend(name for name in running if name not in seen),
        seconds=0.02,
        choose=lambda waiting: waiting[len(waiting) // 2],
    )
    assert seen == ["j1", "j2", "j0"]


def test_failure_shows_the_log_and_stops_the_other_jobs(tmp_path: Path) -> None:
    marker = tmp_path / "late"
    slow = job(
        "slow", f"import time, pathlib; time.sleep(20); pathlib.Path({str(marker)!r}).touch()"
    )
    broken = job("broken", "print('the reason'); raise SystemExit(3)")
    with pytest.raises(ChildFailed, match=r"broken ended with status 3(.|\n)*the reason"):
        run_many([slow, broken], logs=tmp_path, at_once=2, tick=lambda *_: None, seconds=0.02)
    assert not marker.exists()


def test_status_2_is_a_user_error() -> None:
    with pytest.raises(UserError, match="the step store refused its input"):
        run(job("store", "raise SystemExit(2)"))
    with pytest.raises(ChildFailed, match="SIGKILL"):
        run(job("store", "import os; os.kill(os.getpid(), 9)"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can kill a child with its parent")
def test_children_die_when_their_parent_is_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child_code = (
        f"import os, time, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()));"
        "time.sleep(60)"
    )
    parent_code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from code_job import Code\n"
        "from lossline.studies.processes import run_many\n"
        "from pathlib import Path\n"
        f"job = Code(name='x', verb='code', arguments=[{child_code!r}])\n"
        f"run_many([job], logs=Path({str(tmp_path)!r}), at_once=1,"
        "tick=lambda *_: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code])
    child = int(wait_for(pid_file))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(500):
        if not alive(child):
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


SAVES = (
    "import os, pathlib, signal, sys, time\n"
    "folder = pathlib.Path({folder!r})\n"
    "asked = []\n"
    "signal.signal(signal.SIGTERM, lambda *_: asked.append(1))\n"
    "(folder / 'began').write_text(str(os.getsid(0)))\n"
    "while not asked: time.sleep(0.01)\n"
    "time.sleep(0.6)\n"  # longer than subprocess.run waits after Ctrl-C
    "(folder / 'saved').touch()\n"
)


@pytest.mark.parametrize("many", [True, False])
def test_an_interrupted_study_waits_until_its_children_have_saved(tmp_path: Path, many) -> None:
    """Only its own SIGTERM reaches them: a terminal's Ctrl-C goes to the study alone."""
    code = SAVES.format(folder=str(tmp_path))

    def interrupt() -> None:
        wait_for(tmp_path / "began")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            if many:
                run_many([job("j", code)], logs=tmp_path, at_once=1, tick=lambda *_: None)
            else:
                run(job("j", code))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists()
    assert int((tmp_path / "began").read_text()) != os.getsid(0)


def wait_for(path: Path) -> str:
    for _ in range(1000):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise TimeoutError(path)


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie process does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
