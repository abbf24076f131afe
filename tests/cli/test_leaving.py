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
