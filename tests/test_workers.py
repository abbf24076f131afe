"""Workers return the same results in the same order for any number of processes."""

from __future__ import annotations

import os
import signal
import time

import pytest

from lossline.errors import UserError
from lossline.fits.fitting import TableFitOptions
from lossline.workers import Workers


def process_of(item: int) -> tuple[int, int]:
    return item, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_order(processes: int) -> None:
    with Workers(processes) as workers:
        found = workers.map(process_of, range(40))
    assert [item for item, _ in found] == list(range(40))
    assert (os.getpid() in {pid for _, pid in found}) == (processes == 1)


def test_an_error_reaches_the_caller() -> None:
    with pytest.raises(ZeroDivisionError), Workers(2) as workers:
        workers.map((1).__truediv__, [1, 0])


@pytest.mark.parametrize("processes", [1, 2])
def test_calls_that_were_begun_are_waited_for_one_by_one(processes: int) -> None:
    with Workers(processes) as workers:
        workers.start(os.getpid)
        waiting = [workers.begin(process_of, item) for item in range(4)]
        found = [wait() for wait in reversed(waiting)]
    assert [item for item, _ in found] == [3, 2, 1, 0]
    assert (os.getpid() in {pid for _, pid in found}) == (processes == 1)


def killed(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_sentence() -> None:
    with pytest.raises(UserError, match="killed at 0 of 4 lines"), Workers(2) as workers:
        workers.map(killed, range(4), what="lines")


def test_a_process_killed_in_a_call_is_one_sentence() -> None:
    sentence = "killed before its call ended"
    with Workers(2) as workers:
        with pytest.raises(UserError, match=sentence):
            workers.begin(killed, 0)()
        with pytest.raises(UserError, match=sentence):  # the pool takes no more calls
            workers.begin(process_of, 1)
        with pytest.raises(UserError, match="killed at 0 of 2 items"):
            workers.map(process_of, range(2))


def interrupted(item: int) -> int:
    """As Ctrl-C in a terminal, which reaches every process of the group."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.01)
    return item


def test_an_interrupt_reaches_the_first_process_only() -> None:
    with Workers(2) as workers:
        assert workers.map(interrupted, range(4)) == list(range(4))
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_no_processes_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        TableFitOptions(processes=0)
