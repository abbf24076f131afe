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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHARE = 1 / 20  # of this process's part of the machine's memory; up to four blocks are resident
# Holes for a step, in parts of its buffers. glibc fills the smallest hole that is large enough: in
# the first, what is small goes beside the buffers; the second is for a step that begins too early.
RESERVED = (1.25, 1.05)
_CGROUP = Path("/sys/fs/cgroup/memory.max")

_GUARD = 1 << 16  # bytes of the block behind the reserved hole

# Parameters of glibc's mallopt, and the largest values that glibc chooses itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_LARGEST_MMAP_THRESHOLD, _LARGEST_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 32 << 20, 64 << 20, 65536

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


def limit_kept_memory(step_bytes: int | None) -> None:
    """Give freed memory back once, and from now on if a step frees more than ``limit_bytes()``.

    Call it when much is free that is not needed again, for example after compilation. If memory
    stays kept, holes for the buffers of two steps are reserved, because those of one step may be
    freed after the next one has begun.

    Args:
        step_bytes: bytes that are allocated and freed in every step; None: they are not in this
            heap, but on an accelerator.
    """
    global _keeps
    mallopt = _function("mallopt")
    if not _keeps or mallopt is None:
        return
    if step_bytes is None or step_bytes > limit_bytes():
        mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM_THRESHOLD)
        _keeps = False
    if _keeps and step_bytes:
        _reserve([int(share * step_bytes) for share in RESERVED])
    _trim()


def give_back_above(most: int | None = None) -> None:
    """Give freed memory back once if more than ``most`` bytes are free; call it between steps.

    Args:
        most: None: ``limit_bytes()``.
    """
    if _keeps and free_bytes() > (limit_bytes() if most is None else most):
        _trim()


def limit_bytes() -> int:
    """Return the largest buffers of a step that are kept, in bytes.

    A study gives each of its processes a part of the cores; memory is shared out in proportion.
    """
    cores = len(os.sched_getaffinity(0)) / (os.cpu_count() or 1)
    return int(SHARE * cores * machine_bytes())


def machine_bytes() -> int:
    """Return the memory of this machine, or of the container, in bytes."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # ValueError: "max"
        return machine


def free_bytes() -> int:
    """Return the free bytes of the heap, also those already given back; 0 without glibc 2.33."""
    mallinfo2 = _function("mallinfo2", _Statistics)
    return 0 if mallinfo2 is None else int(mallinfo2().fordblks)


def _reserve(sizes: Sequence[int]) -> None:
    """Make holes of so many bytes at the end of the heap; few pages of them are resident."""
    malloc, free = _function("malloc", ctypes.c_void_p), _function("free")
    if malloc is None or free is None:
        return
    holes: list[int] = []
    for size in sizes:
        hole = malloc(ctypes.c_size_t(size))
        if not hole:
            break
        holes.append(hole)
        # The block behind a hole is never freed: at the end of the heap, glibc would not count it
        # as a hole and would fill it last. Smaller holes before it are filled first.
        while (behind := malloc(ctypes.c_size_t(_GUARD))) and behind < hole:
            holes.append(behind)
    for hole in holes:
        free(ctypes.c_void_p(hole))


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
