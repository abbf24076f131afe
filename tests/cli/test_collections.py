"""A verb leaves what it imported out of garbage collections; other programs keep theirs."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, importlib.util, sys
from dataclasses import dataclass
if {verb}:
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("lossline.train")
if {off}:
    gc.disable()
from lossline.cli.configuration import Verb, run_verb

@dataclass(frozen=True, kw_only=True)
class Options:
    width: int = 1

def load():
    print(gc.isenabled())
    if {fails}:
        raise ValueError
    return Verb(options=Options, run=lambda _: print(gc.isenabled(), gc.get_freeze_count() > 1000))

try:
    run_verb("demo", "d", load, argv=[])
except ValueError:
    print(gc.isenabled(), "after the error")
"""


@pytest.mark.parametrize(
    ("verb", "off", "fails", "said"),
    [
        (True, False, False, ["False", "True True"]),
        (True, True, False, ["False", "False False"]),  # someone else has switched it off
        (True, False, True, ["False", "True after the error"]),
        (False, False, False, ["True", "True False"]),
    ],
)
def test_what_a_verb_imports_is_left_out_of_collections(verb, off, fails, said):
    code = PROGRAM.format(verb=verb, off=off, fails=fails)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == said, done.stderr
