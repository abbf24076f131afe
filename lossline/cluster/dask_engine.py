"""Engine of a standing Dask cluster. Dask schedules, retries and moves the work, not this code.

A worker that dies loses its units to other workers; Dask gives a unit up after
``distributed.scheduler.allowed-failures`` deaths (3 by default).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import platform
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, NoReturn, TypeVar

from lossline.cluster.code_version import checked_caller, source_hasher
from lossline.cluster.engine import AGAIN, Engine, Result, Unit, WorkLost, progress
from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.terminal import Say, silent

ANSWER_SECONDS = 10.0  # for a scheduler to answer
SILENT_SECONDS = 60.0  # for one that has answered before, and may be busy
WORKER_SECONDS = 60.0  # for the first worker to join, and for another one when all have left
_IN_FLIGHT = 3  # units per thread of a worker: the next ones wait where the work is done
_LOOK_SECONDS = 2.0  # between two looks at the workers
_Answer = TypeVar("_Answer")
_LOGGERS = ("distributed", "distributed.client")  # Dask's configuration sets a level for each


class DaskEngine(Engine):
    """Workers of a Dask scheduler.

    Every unit carries the hash of the source files of this process, so that a worker with another
    version is found even if it joins late.

    Args:
        address: address of the scheduler, "tcp://host:port" or "tls://host:port".
        say: receives what the connection waits for.

    Raises:
        UserError: the package is missing, the scheduler does not answer or has no workers, or a
            worker has other code.
    """

    def __init__(self, address: str, *, say: Say = silent) -> None:
        try:
            import cloudpickle
            import distributed
        except ImportError as error:
            raise UserError(
                f"cluster = {address}: needs the package distributed ({error}); "
                f"{install_extra('cluster')}"
            ) from error
        self._dask = distributed
        self._dumps: Callable[[Any], bytes] = cloudpickle.dumps
        self._address = address
        self._hash = source_hasher()()
        self._call = checked_caller()
        self._levels = {name: logging.getLogger(name).level for name in _LOGGERS}
        for name in _LOGGERS:  # an error is told in one line, by this code
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            asyncio.run(_greet(address))  # a client waits for the greeting without a limit
            self._client = distributed.Client(
                address, timeout=ANSWER_SECONDS, set_as_default=False, name="lossline"
            )
        except BaseException as error:
            self._restore_logging()
            if not isinstance(error, OSError | TimeoutError | ValueError):
                raise
            raise UserError(
                f"cluster = {address}: the scheduler does not answer within {ANSWER_SECONDS:g} s "
                f"({_first_line(error)}). Start it with `dask scheduler`, or correct the address."
            ) from error
        try:
            self._wait_for_workers(say)
            self._check_workers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Leave the scheduler; it drops the work of this process that has not been done."""
        with contextlib.suppress(Exception):
            self._client.close(timeout=2)
        self._restore_logging()

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
            UserError: also if the scheduler or all workers were lost, if workers die again and
                again on one unit, or if a worker has other code or does not see a path.
        """
        tell = progress(units, say, what)
        source = enumerate(units)
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        pending: dict[Any, int] = {}
        workers = _Workers(self)
        done = 0
        try:
            while True:
                for number, unit in islice(source, max(0, workers.room() - len(pending))):
                    future = self._submit(function, unit)
                    pending[future] = number
                    future.add_done_callback(finished.put)
                if not pending:
                    return
                try:
                    future = finished.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                if future not in pending:
                    continue  # told twice
                result = self._result(future)
                number = pending.pop(future)
                done += 1
                tell(done)
                yield number, result
        finally:
            for future in pending:  # the scheduler drops what nobody waits for
                with contextlib.suppress(Exception):
                    future.release()

    def lost(self) -> UserError:
        """Return the error for a scheduler that has gone."""
        return WorkLost(
            f"cluster = {self._address}: the connection to the scheduler was lost. {AGAIN}"
        )

    def silent(self) -> UserError:
        """Return the error for a scheduler that holds its connections and says nothing."""
        return WorkLost(
            f"cluster = {self._address}: the scheduler has not answered for {SILENT_SECONDS:g} s, "
            f"but holds the connection. Restart it. {AGAIN}"
        )

    def threads(self) -> int:
        """Return the number of threads of all workers.

        Raises:
            UserError: the scheduler was lost or does not answer.
        """
        return sum(self._asked(self._client.nthreads).values())

    def without_workers(self) -> UserError:
        """Return the error for a scheduler that has no worker."""
        return WorkLost(
            f"cluster = {self._address}: the scheduler has no worker after {WORKER_SECONDS:g} s. "
            f"Start workers with `dask worker {self._address}`, or wait for their jobs to start. "
            f"{AGAIN}"
        )

    def _restore_logging(self) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)

    def _submit(self, function: Callable[[Unit], Result], unit: Unit) -> Any:
        try:
            return self._client.submit(
                self._call, self._hash, self._dumps((function, unit)), pure=False
            )
        except (OSError, RuntimeError) as error:
            if self._client.status == "running":
                raise
            raise self.lost() from error

    def _result(self, future: Any) -> Any:
        if future.status == "error":
            self._raise(future.exception())
        state, value, worker = self._waited_for(future)
        if state == "other code":
            raise self._other_code(worker, value)
        if state == "error":
            self._raise(value, worker)
        return value

    def _waited_for(self, future: Any) -> Any:
        """Return the result of a future; it is computed again if its worker has died since."""
        since = time.monotonic()
        while True:
            try:
                return future.result(timeout=ANSWER_SECONDS)
            except self._dask.scheduler.KilledWorker as error:
                self._raise(error)
            except TimeoutError:
                if self.threads():
                    since = time.monotonic()
                elif time.monotonic() - since > WORKER_SECONDS:
                    raise self.without_workers() from None
            except (self._dask.CancelledError, OSError) as error:
                raise self.lost() from error

    def _raise(self, error: BaseException, worker: str = "") -> NoReturn:
        """Raise the error of a unit, as one line where the user can fix it."""
        if isinstance(error, self._dask.scheduler.KilledWorker):
            raise WorkLost(
                f"cluster = {self._address}: {error.allowed_failures + 1} workers died on the same "
                f"unit of work, the last one {error.last_worker.address}, most often because "
                f"memory ran out. Give each worker more memory or fewer threads. {AGAIN}"
            ) from None
        if isinstance(error, ImportError):
            raise UserError(
                f"worker {worker}: {error}. Install the same packages there as here."
            ) from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkLost(
                f"worker {worker}: {error.filename or 'its disk'}: {error.strerror}. Free space "
                f"there. {AGAIN}"
            ) from error
        if isinstance(error, FileNotFoundError | PermissionError) and error.filename:
            raise UserError(
                f"worker {worker}: {error.filename}: {error.strerror}. All workers must see the "
                "same paths as this machine, and may write there: use a file system that they "
                "share, and run them as the same user."
            ) from error
        raise error

    def _wait_for_workers(self, say: Say) -> None:
        if self.threads():
            return
        say(f"cluster = {self._address}: waits for a worker")
        try:
            self._client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except (TimeoutError, self._dask.TimeoutError) as error:
            raise self.without_workers() from error

    def _check_workers(self) -> None:
        here = platform.python_version_tuple()[:2]
        for worker, version in self._everywhere(platform.python_version).items():
            if tuple(version.split(".")[:2]) != here:
                raise UserError(
                    f"worker {worker}: runs Python {version}, but this process "
                    f"{platform.python_version()}. Start the workers in the same environment."
                )
        for worker, found in self._everywhere(source_hasher()).items():
            if found != self._hash:
                raise self._other_code(worker, found)

    def _everywhere(self, function: Callable[[], str]) -> dict[str, str]:
        """Return the answers of the workers by address; one that leaves meanwhile gives none."""
        answers = self._asked(partial(self._client.run, function, on_error="return"))
        return {
            worker: answer if isinstance(answer, str) else "unknown"
            for worker, answer in answers.items()
            if not isinstance(answer, OSError)
        }

    def _asked(self, question: Callable[[], _Answer]) -> _Answer:
        """Return the answer of the scheduler; its client waits without a limit.

        Raises:
            UserError: the scheduler was lost or does not answer.
        """
        if self._client.status != "running":
            raise self.lost()
        answers: queue.SimpleQueue[_Answer | BaseException] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(question())
            except BaseException as error:
                answers.put(error)

        # A daemon, since nothing ends a question that is never answered.
        threading.Thread(target=ask, daemon=True).start()
        try:
            found = answers.get(timeout=SILENT_SECONDS)
        except queue.Empty:
            raise self.silent() from None
        if isinstance(found, OSError | TimeoutError):
            raise self.lost() from found
        if isinstance(found, BaseException):
            raise found
        return found

    def _other_code(self, worker: str, found: str) -> UserError:
        if found == "none":
            return UserError(
                f"worker {worker}: cannot import lossline. Start the workers in the environment "
                "of this process."
            )
        return WorkLost(
            f"worker {worker}: runs lossline {found[:12]}, but this process runs "
            f"{self._hash[:12]}: their source files differ. Give both the same checkout, and "
            f"restart the workers. {AGAIN}"
        )


class _Workers:
    """Number of units that may be in flight: a few for each thread that the workers have now."""

    def __init__(self, engine: DaskEngine) -> None:
        self._engine = engine
        self._threads = engine.threads()
        self._looked = self._seen = time.monotonic()

    def room(self) -> int:
        """Return the number; look at the workers from time to time.

        Raises:
            UserError: the scheduler was lost, or no worker has come back for a while.
        """
        now = time.monotonic()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            threads = self._engine.threads()
            if threads:
                self._threads, self._seen = threads, now
            elif now - self._seen > WORKER_SECONDS:
                raise self._engine.without_workers()
        return max(1, _IN_FLIGHT * self._threads)


async def _greet(address: str) -> None:
    """Connect to a scheduler and leave.

    Raises:
        UserError: certificates are missing.
        OSError: nothing answers there, or no scheduler.
    """
    from distributed.comm import connect
    from distributed.security import Security

    arguments = Security().get_connection_args("client")
    if address.startswith("tls://") and arguments.get("ssl_context") is None:
        raise UserError(
            f"cluster = {address}: certificates are missing. Set distributed.comm.tls in Dask's "
            "configuration, or use tcp://."
        )
    async with asyncio.timeout(ANSWER_SECONDS):
        comm = await connect(address, timeout=0.9 * ANSWER_SECONDS, **arguments)
    await comm.close()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
