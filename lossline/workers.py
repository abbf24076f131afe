"""Worker processes for many independent pieces of one command's work."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

from lossline.child_process import die_with_pool
from lossline.errors import UserError
from lossline.terminal import Say, now_and_then, silent

Item = TypeVar("Item")
Result = TypeVar("Result")

_PIECES = 8  # per process and call: few enough that sending costs little, many enough to balance


class Workers:
    """Processes that apply a function to items; with one, everything happens in this process.

    They start with ``start``, or with the first call that has work for several. Use it as a context
    manager, which ends them.

    Args:
        processes: number of processes.
    """

    def __init__(self, processes: int = 1) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    @property
    def processes(self) -> int:
        """Number of processes."""
        return self._processes

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def start(self, needed: Callable[[], object]) -> None:
        """Start the processes, so that they have imported what they need when work comes.

        Args:
            needed: something cheap to call, of a module that imports what the work needs.
        """
        for _ in range(self._processes if self._processes > 1 else 0):
            self.begin(needed)

    def map(
        self, function: Callable[[Item], Result], items: Sequence[Item], *,
        say: Say = silent, what: str = "items",
    ) -> list[Result]:  # fmt: skip
        """Return the results in the order of the items.

        Args:
            function: a function of a module, or a ``functools.partial`` of one; its result must not
                depend on the process.
            items: its arguments.
            say: receives a line of progress now and then.
            what: name of the items in it.

        Raises:
            UserError: a process was killed from outside.
        """
        results: list[Result] = []
        sparing = now_and_then(say)
        try:
            for result in self._results(function, items):
                results.append(result)
                if len(results) < len(items):
                    sparing(f"  {len(results)} of {len(items)} {what}")
        except BrokenProcessPool:
            raise killed(f"at {len(results)} of {len(items)} {what}") from None
        return results

    def begin(self, function: Callable[..., Result], *arguments: Any) -> Callable[[], Result]:
        """Begin one call, and return a function that waits for its result.

        With one process the call is made at once.

        Args:
            function: a function of a module.
            arguments: its arguments, sent to the process later: nothing may change them.

        Raises:
            UserError: a process was killed from outside, also in the function that waits.
        """
        if self._processes <= 1:
            result = function(*arguments)
            return lambda: result
        with no_interrupts(), _one_sentence():
            future = self._started().submit(function, *arguments)

        def wait() -> Result:
            with _one_sentence():
                return future.result()

        return wait

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = process_pool(self._processes)
        return self._pool

    def _results(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        if self._processes <= 1 or len(items) < 2:
            return map(function, items)
        piece = max(1, len(items) // (_PIECES * self._processes))
        with no_interrupts():
            return self._started().map(function, items, chunksize=piece)


@contextlib.contextmanager
def _one_sentence() -> Iterator[None]:
    """Say in one sentence that a process of the pool was killed."""
    try:
        yield
    except BrokenProcessPool:
        raise killed("before its call ended") from None


def process_pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool whose processes end with this one; they start with the first calls."""
    # Spawn instead of fork: a fork does not copy the threads that libraries have started.
    return ProcessPoolExecutor(processes, get_context("spawn"), initializer=_start)


def _start() -> None:
    die_with_pool()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # every core already has a process


def killed(when: str) -> UserError:
    """Return the error for a pool whose process was killed from outside."""
    return UserError(
        f"a worker process was killed {when}, most often because memory ran out. Use fewer "
        "processes, or free memory, and run the same command again."
    )


@contextlib.contextmanager
def no_interrupts() -> Iterator[None]:
    """Hold back Ctrl-C, and let processes that start meanwhile never receive it.

    A terminal sends it to all of them; only the first process is to answer, in one line.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does: a program that is stopped keeps what it has made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


HERE = Workers()  # everything in this process
