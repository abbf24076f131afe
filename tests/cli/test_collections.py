"""A verb leaves what it imported out of garbage collections; other programs keep theirs."""

import subprocess
import sys

import pytest

PROGRAM = """
import gc, importlib.util, sys
from tests.cli.test_configuration import Other
if {verb}:
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("lossline.train")
from lossline.cli.configuration import Verb, run_verb

def load():
    print(gc.isenabled())
    return Verb(options=Other, run=lambda _: print(gc.isenabled(), gc.get_freeze_count() > 1000))

run_verb("demo", "d", load, argv=[])
"""


@pytest.mark.parametrize(
    ("verb", "said"), [(True, ["False", "True True"]), (False, ["True", "True False"])]
)
def test_what_a_verb_imports_is_left_out_of_collections(verb, said):
    code = PROGRAM.format(verb=verb)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == said, done.stderr
