"""An interrupted program ends with its status, and without the destructors of C++ libraries."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import atexit, importlib.util, os, sys
mark = sys.argv[1]
if {verb}:
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("lossline.train")
atexit.register(os.mkdir, mark + "/destroyed")
from lossline.cli.configuration import Verb, run_verb
from tests.cli.test_configuration import Other

def compile(options):
    atexit.register(os.mkdir, mark + "/cleaned up")
    print("compiles")
    if {interrupted}:
        raise KeyboardInterrupt

run_verb("demo", "d", lambda: Verb(options=Other, run=compile), argv=[])
"""


@pytest.mark.parametrize(
    ("verb", "interrupted", "status", "ran"),
    [
        (True, True, 130, ["cleaned up"]),
        (True, False, 0, ["cleaned up", "destroyed"]),
        (False, True, 130, ["cleaned up", "destroyed"]),
    ],
)
def test_only_an_interrupted_verb_skips_what_ends_a_process(
    tmp_path, verb, interrupted, status, ran
):
    code = PROGRAM.format(verb=verb, interrupted=interrupted)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (status, "compiles\n"), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ran
    assert ("demo: interrupted; run the same" in done.stderr) == interrupted


@pytest.mark.parametrize("gone", ["stdout", "both", "closed"])
def test_status_of_an_interrupted_verb_without_a_reader(tmp_path, gone):
    """In ``… | tee log``, Ctrl-C ends the reader as well."""
    reading, writing = os.pipe()
    os.close(reading)
    code = PROGRAM.format(verb=True, interrupted=True)
    if gone == "closed":
        code = "import os, sys\nos.closerange(1, 3)\nsys.stdout = sys.stderr = None" + code
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=writing,
            stderr=writing if gone == "both" else subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 130, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cleaned up"]


RAISED = """
import importlib.util, os, signal, sys, time, weakref
sys.modules["__main__"].__spec__ = importlib.util.find_spec("lossline.train")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
from lossline.cli.configuration import Verb, run_verb
from tests.cli.test_configuration import Other

class Thing: pass

def interrupt(_=None):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(100): pass

def in_a_callback(options):
    thing = Thing()
    watched = weakref.ref(thing, interrupt)
    del thing  # Python can only report what its callback raises
    print("went on")
    time.sleep(30)

def loads():
    if sys.argv[1] == "imports":
        try:
            interrupt()
        except BaseException:
            raise ImportError("as a C extension says it")
    return Verb(options=Other, run=in_a_callback)

run_verb("demo", "d", loads, argv=[])
"""


@pytest.mark.parametrize(("when", "out"), [("imports", ""), ("callback", "went on\n")])
def test_an_interrupt_that_python_would_swallow_ends_the_verb(when, out):
    done = subprocess.run(
        [sys.executable, "-c", RAISED, when],
        capture_output=True,
        text=True,
        timeout=25,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, out), done.stderr
    assert done.stderr == "lossline demo: interrupted; run the same command again to continue\n"


def test_an_interrupt_that_the_shell_ignores_stays_ignored(tmp_path):
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)" + PROGRAM.format(
        verb=True, interrupted=False
    ).replace('print("compiles")', "signal.raise_signal(signal.SIGINT)")
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cleaned up", "destroyed"]
