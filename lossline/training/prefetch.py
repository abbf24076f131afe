"""Build the next batches and place them on the devices in a thread, while the devices compute."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import NamedSharding


class Plan(Protocol):
    """Batches as a pure function of the step number (``lossline.batches.plans.BatchPlan``)."""

    def batch(self, k: int, rows: slice = ...) -> Any:
        """Return rows ``rows`` of batch ``k``."""
        ...


def place_batch(
    plan: Plan, k: int, *, batch_size: int, sharding: NamedSharding, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Return batch ``k`` as global arrays; each process reads only the rows that its devices hold.

    Args:
        plan: source of the batches.
        k: number of the batch, from 0.
        batch_size: rows of the whole batch.
        sharding: sharding that splits the rows over the mesh.
        names: fields of the batch to place.
    """
    held = sharding.addressable_devices_indices_map((batch_size,)).values()
    spans = [_rows(index, batch_size) for index in held]
    first, last = min(start for start, _ in spans), max(stop for _, stop in spans)
    local = plan.batch(k, rows=slice(first, last))  # one read for all local devices

    def place(array: np.ndarray) -> jax.Array:
        if sharding.mesh.size == 1:
            return jax.device_put(array, sharding)

        def read(index: tuple[slice, ...] | None) -> np.ndarray:
            start, stop = _rows(index, batch_size)
            return array[start - first : stop - first]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, read)

    return {name: place(np.asarray(getattr(local, name))) for name in names}


def _rows(index: tuple[slice, ...] | None, batch_size: int) -> tuple[int, int]:
    """Return the first row and the end (exclusive) of a device's part."""
    start, stop, _ = (index[0] if index else slice(None)).indices(batch_size)
    return start, stop


def prefetched(
    make: Callable[[int], dict[str, jax.Array]], *, start: int, stop: int, depth: int = 2
) -> Generator[dict[str, jax.Array], None, None]:
    """Yield ``make(start)``, …, ``make(stop - 1)``, built up to ``depth`` ahead of the consumer.

    An exception in ``make`` is raised in the consumer.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=depth)
    ended = threading.Event()

    def offer(item: Any) -> None:
        while not ended.is_set():
            try:
                # With a timeout, so that the thread notices when the consumer has stopped.
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for k in range(start, stop):
                offer((make(k), None))
                if ended.is_set():
                    return
        except Exception as error:  # the consumer raises it
            offer((None, error))

    thread = threading.Thread(target=work, name="batches", daemon=True)
    thread.start()
    try:
        for _ in range(start, stop):
            batch, error = ready.get()
            if error is not None:
                raise error
            yield batch
    finally:
        ended.set()
        thread.join()
