"""End a verb that Ctrl-C interrupts with one line and status 130, whatever was at work."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from lossline.terminal import flush_output

INTERRUPTED = 128 + signal.SIGINT
_SECONDS_TO_TRY_AGAIN = 0.05


class Leaving:
    """How a verb ends when it is interrupted.

    While modules are imported and options are read, nothing is written yet, and Ctrl-C ends the
    process at once: C extensions turn a KeyboardInterrupt into an ImportError. Later it is raised.
    Where Python can only ignore it, as in a callback of the garbage collector, it is raised again a
    moment later.

    The end skips the destructors of C++ libraries: threads of XLA may still compile, and crash when
    the process destroys the global objects that they use. Functions that are registered at exit run
    in the opposite order, so all that are registered after this object was made still run.

    In any other program than a verb, such as a notebook or a test, signals stay as they are and
    ``leave`` is ``sys.exit``.

    Args:
        said: the line for Ctrl-C.
    """

    def __init__(self, said: str) -> None:
        self._said = said
        self._status: int | None = None
        self._is_ours = is_a_verb()
        if self._is_ours:
            atexit.register(self._end)
            self._report = sys.unraisablehook
            sys.unraisablehook = self._unraisable
            # Not where it is ignored: a shell starts a job in the background so.
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                signal.signal(signal.SIGINT, self._at_once)

    def begin_work(self) -> None:
        """Raise Ctrl-C as KeyboardInterrupt from now on, so that work can be kept."""
        if self._is_ours and signal.getsignal(signal.SIGINT) == self._at_once:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def leave(self) -> NoReturn:
        """Say that the verb was interrupted, and end this process with status 130."""
        self._say()
        self._status = INTERRUPTED
        sys.exit(INTERRUPTED)

    def _at_once(self, number: int, frame: FrameType | None) -> None:
        self._say()
        self._status = INTERRUPTED
        self._end()

    def _say(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # Ctrl-C has ended the reader too
            print(self._said, file=sys.stderr)

    def _end(self) -> None:
        if self._status is not None:
            flush_output()
            os._exit(self._status)

    def _unraisable(self, about: sys.UnraisableHookArgs) -> None:
        if about.exc_type is not KeyboardInterrupt:
            self._report(about)
            return
        main = threading.main_thread().ident
        assert main is not None
        # Where a shell ignores SIGINT, a verb raises this for SIGTERM.
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        which = signal.SIGTERM if ignored else signal.SIGINT
        again = threading.Timer(_SECONDS_TO_TRY_AGAIN, signal.pthread_kill, (main, which))
        again.daemon = True
        again.start()


def is_a_verb() -> bool:
    """Return whether this process was started with ``python -m lossline.…``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("lossline.")
