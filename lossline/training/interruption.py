"""Stop a training cleanly on SIGINT or SIGTERM, even when a cluster preempts only one host."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interruption:
    """Context manager that turns SIGINT and SIGTERM into a stop after the current step.

    With one process, a second Ctrl-C ends the process at once, and a second SIGTERM does nothing: a
    study sends one to trainings that a terminal may have interrupted already.

    With several processes, a signal may reach only one of them. JAX's preemption service (it
    handles SIGTERM after ``jax.distributed.initialize``) then chooses a step that no process has
    started, and all processes stop after it. A SIGINT is forwarded to the service as a SIGTERM;
    only a second SIGINT kills the process at once.
    """

    def __init__(self) -> None:
        self._asked = False  # no Event: a second signal inside its lock would wait forever
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            together = jax.process_count() > 1
            for each in (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM):
                self._before[each] = signal.getsignal(each)  # first: a signal may come at once
                signal.signal(each, self._pass_on if together else self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def asked(self, step: int) -> bool:
        """Return whether to stop after ``step``.

        Call it at every step: with several processes all of them must ask, and all get the same
        answer.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, self._before[signal.SIGINT])

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
