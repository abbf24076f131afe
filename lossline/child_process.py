"""Children that never outlive their parent: a killed command leaves no second writer behind.

Run as a program, it becomes another command after asking to die with the parent and moving to
given cores:

    python lossline/child_process.py PARENT_PID CORES COMMAND ...

A program of its own, because Python code between fork and exec is not safe in a process that has
threads. Both settings survive the exec. CORES is a comma-separated list, or "-" for all.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies (Linux; elsewhere does nothing).

    Args:
        parent: process id of the parent as it should be; if it has died already, exits at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent has ended")


def die_with_pool() -> None:
    """Initializer of a process pool's workers: ``die_with_parent`` of the process that has it."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)


def main() -> None:
    """See the module's docstring."""
    parent, cores, *command = sys.argv[1:]
    die_with_parent(int(parent))
    if cores != "-" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
