"""Workers return the same results in the same order for any number of processes."""

from __future__ import annotations

import os

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


def test_no_processes_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        TableFitOptions(processes=0)
