"""Leave an interrupted program, while threads of XLA may still compile."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import NoReturn


def prepared_exit() -> Callable[[int], NoReturn]:
    """Return a ``sys.exit`` that skips the destructors of C++ libraries in a program of ours.

    Python raises Ctrl-C in the main thread only. Threads of XLA may go on compiling, and crash
    when the process destroys the global objects that they use, so that the status is that of a
    segmentation fault. What Python itself registered to run at exit still runs.

    Call this before the heavy imports: functions that are registered at exit run in the opposite
    order, and the last one ends the process. In any other program, such as a notebook or a test,
    the exit is ``sys.exit``.
    """
    statuses: list[int] = []

    def end() -> None:
        if statuses:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(statuses[0])

    def leave(status: int) -> NoReturn:
        statuses.append(status)
        sys.exit(status)

    if not _is_a_verb():
        return sys.exit
    atexit.register(end)
    return leave


def _is_a_verb() -> bool:
    """Return whether this process was started with ``python -m lossline.…``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("lossline.")
