"""Worker side of `train_throughput.py`: build once, then run rounds on request.

It uses only the standard library, because every environment imports it.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Contender(Protocol):
    """Object that trains.

    ``facts`` has "versions", "device" and, for a model of lossline, "flops_per_token".
    ``run(count)`` completes that many steps and returns their losses (None for a step without a
    loss). ``device_bytes()`` is the peak memory of an accelerator, None on a CPU.
    """

    facts: Mapping[str, Any]

    def run(self, count: int) -> list[float | None]: ...

    def device_bytes(self) -> int | None: ...


def serve(make: Callable[[dict[str, Any]], Contender]) -> None:
    """Build the contender of the task in ``sys.argv[1]``, run the first steps, then answer
    requests.

    Requests and answers are JSON objects, one per line. The answer to {"steps": n} is {"seconds",
    "cpu_seconds"}. At the end of the input it answers {"memory_mb"} and the process ends. An
    exception is answered by {"error"}.
    """
    task = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep the output of libraries out of the answers
    before = _resident_mb()
    try:
        start = time.perf_counter()
        contender = make(task)
        losses = contender.run(task["first_steps"])
        seconds = time.perf_counter() - start
        _answer(answers, first_seconds=seconds, losses=losses, facts=dict(contender.facts))
        for line in sys.stdin:
            start, cpu = time.perf_counter(), time.process_time()
            contender.run(json.loads(line)["steps"])
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
            _answer(answers, seconds=seconds, cpu_seconds=cpu)
        used = contender.device_bytes()
        peak = _peak_mb() - before if used is None else used / 2**20
        _answer(answers, memory_mb=peak, device_memory=used is not None)
    except Exception as error:
        traceback.print_exc()
        _answer(answers, error=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def measure(values: Callable[[dict[str, Any]], dict[str, float]]) -> None:
    """Serve values instead of training steps: the answer to {"steps"} is {"values"}."""
    task = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        _answer(answers, first_seconds=0.0, losses=[], facts={})
        for _ in sys.stdin:
            _answer(answers, values=values(task))
        _answer(answers, memory_mb=None, device_memory=False)
    except Exception as error:
        traceback.print_exc()
        _answer(answers, error=f"{type(error).__name__}: {error}".splitlines()[0][:300])


def _answer(stream: Any, **content: Any) -> None:
    stream.write(json.dumps(content) + "\n")


def _resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
