"""Shards of scores computed by the workers of a cluster, each with the devices of its own JAX."""

from __future__ import annotations

import pickle
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lossline.evaluation.options import Devices, MeasureOptions, use_compilation_cache
from lossline.evaluation.restoring import MeasurementFailed, nats_of
from lossline.runs.run_directory import RunDirectory
from lossline.scoring.shard_texts import ShardTexts
from lossline.scoring.shards import ShardFiles
from lossline.stores.token_store import TokenStore

SHARDS = 8  # per unit: loading the model must not cost more than using it


@dataclass(frozen=True, kw_only=True)
class ShardUnit:
    """Some shards of one checkpoint.

    Attributes:
        options: options of the verb.
        run: run directory.
        step: the checkpoint.
        store: token store of the pages.
        store_fingerprint: its fingerprint.
        shard_tokens: as in the options.
        folder: folder of the shards' files.
        numbers: the shards.
    """

    options: MeasureOptions
    run: str
    step: int
    store: str
    store_fingerprint: str
    shard_tokens: int
    folder: str
    numbers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ShardResult:
    """What became of a unit.

    Attributes:
        failure: why the checkpoint could not be measured; "" if it could.
        not_kept: shard -> nats that are not finite, of which no file is kept.
        tokens: real positions computed.
        cells: all positions computed.
    """

    failure: str = ""
    not_kept: dict[int, np.ndarray] = field(default_factory=dict)
    tokens: int = 0
    cells: int = 0


def compute_shards(unit: ShardUnit) -> ShardResult:
    """Compute shards and write their files, in a worker.

    A worker with several threads computes one unit at a time: the units share its devices.
    """
    with _lock:
        run = RunDirectory.open(unit.run)
        use_compilation_cache(unit.options.compilation_cache, beside=run.path)
        rule = unit.options.rule(run.facts)
        devices: Devices = _once(
            "devices", (unit.options,),
            lambda: Devices(unit.options, verb="score", rows=unit.options.rows),
        )  # fmt: skip
        texts: ShardTexts = _once(
            "texts", (unit.options, unit.store, unit.store_fingerprint, rule, unit.shard_tokens),
            lambda: ShardTexts(
                TokenStore.open(unit.store), rule, devices.layout, unit.shard_tokens
            ),
        )  # fmt: skip
        shards = ShardFiles(Path(unit.folder))
        not_kept, tokens, cells = {}, 0, 0
        try:
            loaded, state = _once(
                "model", (unit.options, unit.folder), lambda: _loaded(devices, run, unit.step)
            )
            for number in unit.numbers:
                packed = texts.packed(number)
                nats = nats_of(loaded.scorer, state, packed)
                shards.keep(texts.ranges[number], nats)
                if not np.isfinite(nats).all():
                    not_kept[number] = nats
                tokens, cells = tokens + packed.num_tokens, cells + packed.num_cells
        except MeasurementFailed as error:
            return ShardResult(failure=str(error), tokens=tokens, cells=cells)
        return ShardResult(not_kept=not_kept, tokens=tokens, cells=cells)


def everywhere(place: str) -> str:
    """Return a place as workers with another current folder find it."""
    return place if "://" in place else str(Path(place).absolute())


def _loaded(devices: Devices, run: RunDirectory, step: int) -> tuple[Any, Any]:
    loaded = devices.model(run)
    [(_, state)] = loaded.states([step])
    return loaded, state


_lock = threading.Lock()
_held: dict[str, tuple[bytes, Any]] = {}  # what the last unit used, with what it depends on


def _once(name: str, key: tuple[Any, ...], make: Any) -> Any:
    """Return what ``make`` returns, or what it returned for the last unit with an equal key."""
    wanted = pickle.dumps(key)
    if name not in _held or _held[name][0] != wanted:
        _held.pop(name, None)  # frees a model before the next one is loaded
        _held[name] = wanted, make()
    return _held[name][1]
