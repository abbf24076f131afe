"""An interrupted program ends with its status, and without the destructors of C++ libraries."""

import subprocess
import sys

import pytest

from lossline.cli.leaving import prepared_exit

PROGRAM = """
import atexit, importlib.util, sys
if {verb}:
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("lossline.train")
atexit.register(print, "destroyed")
from lossline.cli.configuration import Verb, run_verb
from tests.cli.test_configuration import Other

def compile(options):
    atexit.register(print, "cleaned up")
    print("compiles", end=" ")
    if {interrupted}:
        raise KeyboardInterrupt

run_verb("demo", "d", lambda: Verb(options=Other, run=compile), argv=[])
"""


@pytest.mark.parametrize(
    ("verb", "interrupted", "status", "said"),
    [
        (True, True, 130, "compiles cleaned up\n"),
        (True, False, 0, "compiles cleaned up\ndestroyed\n"),
        (False, True, 130, "compiles cleaned up\ndestroyed\n"),
    ],
)
def test_only_an_interrupted_verb_skips_what_ends_a_process(verb, interrupted, status, said):
    code = PROGRAM.format(verb=verb, interrupted=interrupted)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, said), done.stderr
    assert ("demo: interrupted; run the same" in done.stderr) == interrupted


def test_another_program_is_left_as_ever():
    assert prepared_exit() is sys.exit
