"""Child processes that end with their parent, so that a killed command leaves no writer.

Run as a program, this file asks the kernel to kill it with its parent, moves to the given cores,
and then becomes another command:

    python lossline/child_process.py PARENT_PID CORES COMMAND ...

CORES is a comma-separated list, or "-" for all. Both settings survive the exec. It is a separate
program because running Python code between fork and exec is not safe in a process with threads.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies (Linux; elsewhere it does nothing).

    Args:
        parent: expected process id of the parent. If the parent has already died, this process
            exits.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent has ended")


def die_with_pool() -> None:
    """Initialize a worker of a process pool: ``die_with_parent`` for the pool's process."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)


def main() -> None:
    """Run the command of the command line; see the module's docstring."""
    parent, cores, *command = sys.argv[1:]
    die_with_parent(int(parent))
    if cores != "-" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
