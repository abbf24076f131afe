"""Leave an interrupted program, while threads of XLA may still compile."""

from __future__ import annotations

import atexit
import os
import sys
from typing import NoReturn

from lossline.terminal import flush_output


class Leaving:
    """The exit of a verb that skips the destructors of C++ libraries.

    Python raises Ctrl-C in the main thread only. Threads of XLA may go on compiling, and crash
    when the process destroys the global objects that they use, so that its status is that of a
    segmentation fault.

    Make it before the heavy imports: functions that are registered at exit run in the opposite
    order, so that all that were registered later still run before this one ends the process. In
    any other program than a verb, such as a notebook or a test, ``leave`` is ``sys.exit``.
    """

    def __init__(self) -> None:
        self._status: int | None = None
        if _is_a_verb():
            atexit.register(self._end)

    def leave(self, status: int) -> NoReturn:
        """End this process with ``status``."""
        self._status = status
        sys.exit(status)

    def _end(self) -> None:
        if self._status is not None:
            flush_output()
            os._exit(self._status)


def _is_a_verb() -> bool:
    """Return whether this process was started with ``python -m lossline.…``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("lossline.")
