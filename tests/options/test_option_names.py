"""A wrong argument of every verb is answered without importing anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lossline.options.names import FILE, all_owners, file_text

HEAVY = {"jax", "flax", "numpy", "tensorflow", "pandas", "gin", "matplotlib", "scipy", "pyarrow"}
NEEDED = {
    "convert": ["a", "b"],
    "import_sweep": ["chinchilla"],
    "report": ["results"],
}
WRONG = [
    ("--stepz=3", "unknown argument --stepz=3"),
    ("--gin.VERB.sed=1", "VERB has no option 'sed'"),
]


def test_the_file_has_the_names_of_all_options() -> None:
    assert FILE.read_text(encoding="utf-8") == file_text(all_owners()), (
        "an option was added, renamed or removed: run python -m lossline.options.names"
    )


@pytest.mark.parametrize("verb", ["train", "prepare", "study", *NEEDED, "evaluate", "score"])
def test_wrong_argument_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import contextlib, io, runpy, sys\n"
        "said = io.StringIO()\n"
        f"for wrong in {[argument.replace('VERB', verb) for argument, _ in WRONG]}:\n"
        f"    sys.argv = ['x', *{NEEDED.get(verb, [])}, wrong]\n"
        "    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):\n"
        f"        runpy.run_module('lossline.{verb}', run_name='__main__')\n"
        "print(said.getvalue())\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy and len(sys.modules) < 400, (heavy, len(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for _, said in WRONG:
        assert said.replace("VERB", verb) in done.stdout
