"""Engine: runs a function on many units of work, as one contract for every kind of machine."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Self, TypeVar

from lossline.errors import UserError
from lossline.terminal import Say, now_and_then, silent

Unit = TypeVar("Unit")
Result = TypeVar("Result")

HERE = "this machine"  # name of every process that is not a worker of a cluster
AGAIN = "Run the same command again; parts that are finished are not made again."


class WorkLost(UserError):
    """The machines that work failed, not the input: what is finished is worth keeping."""


class Engine(ABC):
    """Runs a function on units of work, with a bounded number in flight.

    Use it as a context manager; leaving it cancels the work in flight. What an engine is changes
    where the work is done and never the results: a unit may run twice, and units finish in any
    order.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def run(
        self,
        function: Callable[[Unit], Result],
        units: Iterable[Unit],
        *,
        say: Say = silent,
        what: str = "units",
    ) -> Iterator[tuple[int, Result]]:
        """Yield the index and the result of every unit as it finishes, in any order.

        Args:
            function: function of a module, or a ``functools.partial`` of one. It writes its own
                output whole or not at all, and gives the same result when it runs twice.
            units: small arguments that pickle can copy: paths, ranges, numbers, never text.
            say: receives a line of progress now and then.
            what: name of the units in it.

        Raises:
            UserError: raised by the function, or the machines that work were lost.
            OSError: raised by the function.
        """

    @abstractmethod
    def close(self) -> None:
        """Cancel the work in flight and let the workers go."""


def progress(units: Iterable[Any], say: Say, what: str) -> Callable[[int], None]:
    """Return a function that says now and then how many of the units are done."""
    sparing = now_and_then(say)
    total = f" of {len(units)}" if isinstance(units, Sized) else ""
    return lambda done: sparing(f"  {done}{total} {what}")


def worker_name() -> str:
    """Return the name of the worker that runs this, for messages: "worker tcp://10.0.0.7:4021".

    It is "this machine" outside a Dask worker.
    """
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            return f"worker {distributed.get_worker().address}"
        except ValueError:  # not in a worker
            pass
    return HERE
