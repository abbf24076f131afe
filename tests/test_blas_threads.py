"""Commands that fit many small models start NumPy with one BLAS thread."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, sys
from lossline import {verb}
assert "numpy" not in sys.modules
{verb}.load()
assert "numpy" in sys.modules
print(os.environ["OPENBLAS_NUM_THREADS"])
"""


@pytest.mark.parametrize("verb", ["fit", "predict"])
@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("2", "2")])
def test_one_thread_unless_the_user_chose_a_number(verb: str, given: str, used: str) -> None:
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env |= {"OPENBLAS_NUM_THREADS": given} if given else {}
    printed = subprocess.run(
        [sys.executable, "-c", CODE.format(verb=verb)],
        env=env, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.strip() == used
