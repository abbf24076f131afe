"""Guarantees of `lossline.heap`: little freed memory is kept, much is given back.

Each test is a process of its own, because the settings are those of a process.
"""

import ctypes
import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, json, resource
from lossline import heap

heap.machine_bytes = lambda: 1 << 40
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults(mib):
    "Page faults of a buffer that is written, and freed."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pointer = libc.malloc(mib << 20)
    ctypes.memset(pointer, 1, mib << 20)
    libc.free(pointer)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20
"""

needs_mallinfo2 = pytest.mark.skipif(
    not (sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")),
    reason="needs glibc 2.33",
)


def answer(code, **environment):
    """What a fresh process prints."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_", "LD_"))}
    command = [sys.executable, "-c", f"{SCRIPT}\n{code}"]
    done = subprocess.run(
        command, env={**kept, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


COUNT = "faults({0}); print(json.dumps([faults({0}) for _ in range(3)]))"


@needs_mallinfo2
def test_a_step_does_not_fault_its_buffers_in_again():
    pages = (64 << 20) / os.sysconf("SC_PAGE_SIZE")
    kept = answer(
        "heap.keep_freed_memory(); faults(64); heap.limit_kept_memory(64 << 20);" + COUNT.format(64)
    )
    assert max(kept) < pages / 1000


@needs_mallinfo2
def test_buffers_above_the_limit_are_given_back():
    resident = answer(
        "heap.keep_freed_memory(); faults(64); before = resident();"
        "heap.machine_bytes = lambda: 64 << 20; heap.limit_kept_memory(64 << 20);"
        "after = resident(); faults(64);"
        "print(json.dumps([before, after, resident()]))"
    )
    assert resident[0] - resident[1] > 55
    assert resident[0] - resident[2] > 55  # later buffers are given back too


@needs_mallinfo2
def test_what_a_phase_has_left_is_given_back_once():
    before, after, again = answer(
        "heap.keep_freed_memory(); faults(64); before = resident();"
        "heap.limit_kept_memory(64 << 20); after = resident(); faults(64);"
        "print(json.dumps([before, after, resident()]))"
    )
    assert before - after > 55
    assert again - after > 55  # and kept afterwards


@needs_mallinfo2
@pytest.mark.parametrize(("blocks", "given"), [(1, False), (3, True)])
def test_only_what_is_free_twice_is_given_back_between_steps(blocks, given):
    before, after = answer(
        f"heap.keep_freed_memory(); faults({blocks} * 64); before = resident();"
        "heap.give_back_above(2 * 64 << 20); print(json.dumps([before, resident()]))"
    )
    assert (before - after > 55) == given


@needs_mallinfo2
def test_an_allocator_of_the_user_stays():
    pages = (64 << 20) / os.sysconf("SC_PAGE_SIZE")
    given = answer("heap.keep_freed_memory();" + COUNT.format(64), MALLOC_MMAP_THRESHOLD_="1000000")
    assert min(given) > pages / 1000  # at least huge pages are faulted in


def test_a_library_without_these_functions_is_no_error(monkeypatch):
    from lossline import heap

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    heap.keep_freed_memory()
    heap.limit_kept_memory(1)
    assert heap.free_bytes() == 0


@needs_mallinfo2
def test_small_memory_that_lives_on_costs_no_second_block_for_ten_steps():
    before, after = answer(
        "heap.keep_freed_memory(); heap.limit_kept_memory(64 << 20); faults(64);"
        "before = resident()\n"
        "for _ in range(10):\n"
        "    step = libc.malloc(64 << 20); ctypes.memset(step, 1, 64 << 20)\n"
        "    ctypes.memset(libc.malloc(100_000), 1, 100_000)  # during the step\n"
        "    libc.free(step)\n"
        "    ctypes.memset(libc.malloc(100_000), 1, 100_000)  # between steps\n"
        "print(json.dumps([before, resident()]))"
    )
    assert after - before < 16
