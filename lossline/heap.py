"""Freed memory of this process: kept for the next step, or given back to the system.

By default glibc gives the buffers of a step back, and every step page-faults them in again: a
quarter of the time of a small model on a CPU. Kept memory has a price. The buffers of a step are
one block, and allocations that outlive the step (a checkpoint being written) cut into the hole that
it leaves. The next step then takes a new block, and up to four are resident. So memory is kept only
if a step needs little of the machine's.

glibc is asked at run time, because a user's own command should be as fast as a study's. Without
glibc 2.33 these functions do nothing.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any

SHARE = 1 / 20  # of the machine's memory: with four blocks, two trainings at a time take 2/5 of it

# Parameters of glibc's mallopt, and the values that glibc starts with.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGEST_MMAP_THRESHOLD, _DEFAULT_MMAP_MAX = 32 << 20, 65536

_keeps = False  # whether this process keeps freed memory


class _Statistics(ctypes.Structure):
    """glibc's ``struct mallinfo2``; ``fordblks`` are the free bytes of the heap."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in _names.split()]


def keep_freed_memory() -> None:
    """Keep freed memory from now on, unless the user has chosen an allocator in the environment."""
    global _keeps
    mallopt, chosen = _function("mallopt"), ("GLIBC_TUNABLES", "LD_PRELOAD")
    if any(name in chosen or name.startswith("MALLOC_") for name in os.environ):
        return
    if mallopt is None or _function("mallinfo2") is None:
        return
    mallopt(_ARENA_MAX, 1)
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)
    _keeps = True


def limit_kept_memory(step: int) -> None:
    """Give freed memory back once, and from now on if a step frees more than ``SHARE`` allows.

    Call it when much is free that is not needed again, for example after compilation.

    Args:
        step: bytes that are allocated and freed in every step.
    """
    global _keeps
    mallopt = _function("mallopt")
    if not _keeps or mallopt is None:
        return
    if step > SHARE * machine_bytes():
        mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        _keeps = False
    _trim()


def give_back_second_blocks(step: int) -> None:
    """Give freed memory back once if more than one block of ``step`` bytes is free.

    Call it while no step runs.
    """
    if _keeps and free_bytes() > 2 * step:
        _trim()


def machine_bytes() -> int:
    """Return the memory of this machine in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_bytes() -> int:
    """Return the bytes of the heap that are free and not given back; 0 without glibc 2.33."""
    mallinfo2 = _function("mallinfo2", _Statistics)
    return 0 if mallinfo2 is None else int(mallinfo2().fordblks)


def _trim() -> None:
    malloc_trim = _function("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))


def _function(name: str, result: type = ctypes.c_int) -> Callable[..., Any] | None:
    """Return a function of the C library, or None."""
    try:
        function = getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # TypeError: Windows
        return None
    if function is not None:
        function.restype = result
    return function
