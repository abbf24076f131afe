"""Processes that do not find each other end in one line."""

import socket
import subprocess
import sys

import pytest

# Waits for a second process that is never started.
ALONE = """
import sys
from lossline.sharding import LaunchOptions, launch
from lossline.sharding.launch import Launch
sys.modules["lossline.sharding.launch"].SECONDS_TO_MEET = 1
number = int(sys.argv[2])
launch(LaunchOptions(how=Launch.EXPLICIT, coordinator=sys.argv[1], processes=2, process_id=number))
"""


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_whose_others_do_not_come_says_so(number: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    done = subprocess.run(
        [sys.executable, "-c", ALONE, coordinator, str(number)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if line.startswith("lossline: error: ")]
    assert said == done.stderr.splitlines()[-1:]
    assert f"process {number} of 2 has waited 1 s for the others" in said[0]
