"""Engine of this machine: the standard library's process pool."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any

from lossline.cluster.engine import Engine, Result, Unit, WorkLost, progress
from lossline.terminal import Say, silent
from lossline.workers import killed, no_interrupts, process_pool

_IN_FLIGHT = 2  # units per process: the next one waits where the work is done


class LocalEngine(Engine):
    """Processes of this machine. With one process, or one unit, the work is done in this process.

    The processes start with the first call that has two units.

    Args:
        processes: number of processes.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def close(self) -> None:
        """End the processes after the units that they are working on."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(
        self,
        function: Callable[[Unit], Result],
        units: Iterable[Unit],
        *,
        say: Say = silent,
        what: str = "units",
    ) -> Iterator[tuple[int, Result]]:
        """See ``Engine.run``.

        Raises:
            UserError: a process was killed from outside.
        """
        tell = progress(units, say, what)
        source = enumerate(units)
        first = list(islice(source, 2))
        numbered = chain(first, source)
        alone = self._processes <= 1 or len(first) < 2
        finished = (
            ((number, function(unit)) for number, unit in numbered)
            if alone
            else self._in_processes(function, numbered, what)
        )
        for done, (number, result) in enumerate(finished, 1):
            tell(done)
            yield number, result

    def _in_processes(
        self, function: Callable[[Unit], Result], units: Iterator[tuple[int, Unit]], what: str
    ) -> Iterator[tuple[int, Result]]:
        if self._pool is None:
            self._pool = process_pool(self._processes)
        pending: dict[Future[Any], int] = {}
        done = 0
        try:
            while True:
                for number, unit in islice(units, _IN_FLIGHT * self._processes - len(pending)):
                    with no_interrupts():  # a process starts with its first unit
                        pending[self._pool.submit(function, unit)] = number
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    number = pending.pop(future)
                    result = future.result()
                    done += 1
                    yield number, result
        except BrokenProcessPool:
            self._pool = None
            raise WorkLost(str(killed(f"after {done} {what}"))) from None
        finally:
            for future in pending:
                future.cancel()
