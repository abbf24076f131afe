"""The orderly end of a training that is asked to stop: by a person, or by a cluster that takes its
machines back."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interruption:
    """While entered, SIGINT and SIGTERM ask for an end after the next step; a second one ends the
    process at once.

    Of several processes one may be signalled alone: JAX's preemption service, which takes SIGTERM
    from `jax.distributed.initialize` on, then finds a step that none has begun, and all stop after
    it. A SIGINT is handed on to it as a SIGTERM; only a second SIGINT then ends a process at once.
    """

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            together = jax.process_count() > 1
            for each in (signal.SIGINT,) if together else (signal.SIGINT, signal.SIGTERM):
                self._before[each] = signal.signal(each, self._pass_on if together else self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def asked(self, step: int) -> bool:
        """Whether to stop after ``step``; to be called at every step, and the same answer in every
        process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._asked.is_set()

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked.set()
        self._restore()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        os.kill(os.getpid(), signal.SIGTERM)

    def _restore(self) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)
