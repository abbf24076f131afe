"""The processes of one multi-host run: they agree on what to do, and end together.

Programs of a mesh that spans processes run only if every process starts them, in the same order. So
whatever one process alone can find out (a missing file, a full memory, the list of work) is
exchanged before the next program starts. Messages go through JAX's coordination service, not
through the devices, so they also arrive while a program waits for a process that has failed.

- ``agreed`` raises an error of one process in all of them.
- ``first_says`` gives all of them a value that only the first process computes.
- A thread tells the others that this process lives, or why it has ended. When one ends in another
  way than by an agreed error, or is killed, the others end with one line and exit status 1.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed  # the service's messages have no public interface

from lossline.errors import UserError
from lossline.sharding.launch import Launch, LaunchOptions, launch
from lossline.terminal import flush_output
from lossline.workers import sigterm_interrupts

# Seconds between two signs of life. A process without a new one at so many looks is lost: after 60
# seconds, before JAX itself ends all processes (100 seconds) with a longer message.
SECONDS_BETWEEN_SIGNS = 5.0
LOOKS_UNTIL_LOST = 12
# A process that has failed waits so long for the others to fail in the same way; longer than it
# takes to know that one is lost, which may be the reason.
SECONDS_FOR_THE_SAME_FAILURE = 90.0
# After another process has ended, a process may end by itself, with a message of its own.
SECONDS_TO_END = 5.0
_POLL_MS = 2000

Value = TypeVar("Value")
_groups = 0  # groups that this process has joined; each has messages of its own


class ProcessGroup:
    """All processes of the run; a single process agrees with itself at once.

    Args:
        verb: name of the program, for messages.

    Attributes:
        index: number of this process, from 0.
        count: number of processes.
        first: whether this process is the first one, which writes all files.
    """

    def __init__(self, verb: str = "lossline") -> None:
        global _groups
        self.index, self.count = jax.process_index(), jax.process_count()
        self.first = self.index == 0
        self._verb = verb
        self._service: Any = distributed.global_state.client if self.count > 1 else None
        _groups += self.count > 1
        self._place = f"lossline/{_groups}"
        self._exchanges = 0
        self._agreed: BaseException | None = None
        self._ended = threading.Event()

    # --- agreement ------------------------------------------------------------------------------

    @contextmanager
    def agreed(self, kind: type[Exception] = UserError) -> Iterator[None]:
        """Raise an error of ``kind`` in every process if the block raises it in one.

        Every process must enter the block. Other errors end this process alone; the others follow.
        """
        if self.count == 1:
            yield
            return
        mine: Exception | None = None
        try:
            yield
        except kind as error:
            mine = error
        self._raise_first(self._exchange(mine)[0], mine, kind)

    def first_says(self, make: Callable[[], Value], kind: type[Exception] = UserError) -> Value:
        """Return what ``make`` returns in the first process, as JSON; the others do not call it.

        An error of ``kind`` is raised in every process.
        """
        if self.count == 1:
            return make()
        mine, value = None, None
        if self.first:
            try:
                value = make()
            except kind as error:
                mine = error
        errors, value = self._exchange(mine, value)
        self._raise_first(errors, mine, kind)
        return value  # type: ignore[return-value]

    def require_equal(self, found: Mapping[str, Any], *, fix: str) -> None:
        """Check that every process has the same values, as JSON.

        Args:
            found: what it is -> its value in this process.
            fix: how to make them equal, for the message.

        Raises:
            UserError: in every process, if one value differs from that of the first process.
        """
        if self.count == 1:
            return
        mine = json.loads(json.dumps(found))
        theirs = self.first_says(lambda: mine)
        with self.agreed():
            for name in {**theirs, **mine}:
                if mine.get(name) != theirs.get(name):
                    raise UserError(
                        f"{name} is {mine.get(name)!r} in process {self.index}, but "
                        f"{theirs.get(name)!r} in process 0. {fix}"
                    )

    def _raise_first(
        self, errors: Mapping[str, str], mine: Exception | None, kind: type[Exception]
    ) -> None:
        """Raise the error of this process, or else of the first process that has one."""
        if not errors:
            return
        number = min(errors, key=int)
        self._agreed = mine or kind(f"process {number}: {errors[number]}")
        raise self._agreed

    def _exchange(self, error: Exception | None, value: Any = None) -> tuple[dict[str, str], Any]:
        """Return the error of each process that has one, and the value of the first process."""
        self._exchanges += 1
        place, before = (f"{self._place}/{n}" for n in (self._exchanges, self._exchanges - 1))
        mine = "" if error is None else str(error) or type(error).__name__
        if not self.first:
            self._service.key_value_set(f"{place}/{self.index}", json.dumps(mine))
            answer = json.loads(self._read(f"{place}/all", of=0, failed=error))
            return answer["errors"], answer["value"]
        errors = {"0": mine} if mine else {}
        for number in range(1, self.count):
            theirs = json.loads(self._read(f"{place}/{number}", of=number, failed=error))
            errors |= {str(number): theirs} if theirs else {}
        self._service.key_value_set(f"{place}/all", json.dumps({"errors": errors, "value": value}))
        self._service.key_value_delete(before)  # everyone has read it before writing now
        return errors, value

    def _read(self, key: str, *, of: int, failed: Exception | None) -> str:
        """Wait for a message; not for ever if this process has failed, and perhaps alone."""
        until = time.monotonic() + SECONDS_FOR_THE_SAME_FAILURE
        while True:
            try:
                return self._service.blocking_key_value_get(key, _POLL_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    self._end("process 0 has ended: the service that it runs does not answer")
            if failed is not None and time.monotonic() > until:
                raise UserError(
                    f"{' '.join(str(failed).split())} (in process {self.index}, but not in process "
                    f"{of}, so all end)"
                ) from failed

    # --- life and end ---------------------------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[ProcessGroup]:
        """Give signs of life, and end this process soon after another one."""
        watch = threading.Thread(target=self._watch, name="watch", daemon=True)
        watch.start()
        state = "done"
        try:
            yield self
            self._exchange(None)  # none leaves while another may still fail
        except BaseException as error:
            if error is not self._agreed:
                state = f"ended: {_reason(error)}"
                # JAX would wait at its exit for processes that cannot come.
                atexit.register(self._leave, _status(error))
            raise
        finally:
            self._ended.set()
            watch.join()
            self._tell(state)

    def _watch(self) -> None:
        seen: dict[int, str] = {}
        unchanged = dict.fromkeys(range(self.count), 0)
        looks = 0
        ending: float | None = None
        while not self._ended.wait(SECONDS_BETWEEN_SIGNS):
            looks += 1
            self._tell(str(looks))
            states = self._states()
            for number in range(self.count):
                state = states.get(number, "0")
                same = seen.get(number) == state and state != "done" and number != self.index
                unchanged[number] = unchanged[number] + 1 if same else 0
                seen[number] = state
                if state.startswith("ended"):
                    ending = ending or time.monotonic() + SECONDS_TO_END
                    if time.monotonic() > ending:
                        self._end(f"process {number} has {state}")
                elif unchanged[number] >= LOOKS_UNTIL_LOST:
                    self._end(f"process {number} was killed or has lost its connection")

    def _tell(self, state: str) -> None:
        try:
            self._service.key_value_set(f"{self._place}/signs/{self.index}", state, True)
        except jax.errors.JaxRuntimeError:
            self._end("process 0 has ended: the service that it runs does not answer")

    def _states(self) -> dict[int, str]:
        """Return the last sign of each process that has given one."""
        try:
            found = self._service.key_value_dir_get(f"{self._place}/signs")
        except jax.errors.JaxRuntimeError:
            self._end("process 0 has ended: the service that it runs does not answer")
        return {int(key.rpartition("/")[2]): state for key, state in found}

    def _end(self, why: str) -> NoReturn:
        """End this process at once, whatever its main thread waits for."""
        print(
            f"lossline {self._verb}: error: {why.rstrip('.')}. Finished work is kept; start all "
            "processes again to continue.",
            file=sys.stderr,
            flush=True,
        )
        flush_output()
        os._exit(1)

    def _leave(self, status: int) -> None:
        """End after the messages are printed; the first process waits until all know the reason."""
        until = time.monotonic() + SECONDS_TO_END + 3 * SECONDS_BETWEEN_SIGNS
        while self.first and time.monotonic() < until:
            others = [state for number, state in self._states().items() if number]
            if all(state.startswith(("ended", "done")) for state in others):
                break
            time.sleep(min(1.0, SECONDS_BETWEEN_SIGNS))
        flush_output()
        os._exit(status)


@contextmanager
def joined(options: LaunchOptions, *, verb: str) -> Iterator[ProcessGroup]:
    """Join the other processes, and end together with them.

    Call it before any code uses a device.

    Args:
        options: how the processes find each other.
        verb: name of the program, for messages.

    Raises:
        UserError: as ``launch``.
    """
    if options.how is not Launch.SINGLE and not jax.distributed.is_initialized():
        # It would swallow the SIGTERM of a cluster; it is for programs that count steps.
        jax.config.update("jax_enable_preemption_service", False)
    launch(options)
    group = ProcessGroup(verb)
    with sigterm_interrupts():
        if group.count == 1:
            yield group
            return
        with group._watched():
            yield group


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
    return f"{name}{' '.join(str(error).split())[:1000]}"


def _status(error: BaseException) -> int:
    """Return the exit status that the command line has for an error."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    return 2 if isinstance(error, (UserError, OSError)) else 1
