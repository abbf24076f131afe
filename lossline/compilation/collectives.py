"""Communication of a compiled program: collectives by kind and mesh axes, with bytes sent."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lossline.compilation.hlo import (
    COLLECTIVES,
    Computation,
    Instruction,
    Program,
    UnreadableProgram,
)


@dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same mesh axes.

    Attributes:
        kind: all-gather and so on.
        axes: names of the mesh axes inside a group, joined by "+".
        count: number per step.
        wire_bytes: bytes that each device sends for them.
    """

    kind: str
    axes: str
    count: float
    wire_bytes: float


def collectives(
    program: Program, mesh_shape: Sequence[int], axis_names: Sequence[str]
) -> list[Collective]:
    """Return all collectives of one run, summed by kind and mesh axes, largest first.

    Wire bytes are those of ring algorithms among g devices: (g-1)/g of the gathered or scattered
    array, and twice that for an all-reduce.

    Raises:
        UnreadableProgram: the groups of a collective are written in an unknown form.
    """
    found: dict[tuple[str, str], list[float]] = {}
    for inside in (False, True):
        for item, computation, times in program.executed(fused=inside):
            kind = item.opcode.removesuffix("-start")
            if kind not in COLLECTIVES:
                continue
            # On TPU a fusion with this name slices the reduced array: it is a reduce-scatter.
            if kind == "all-reduce" and "all-reduce-scatter" in computation.name:
                kind = "reduce-scatter"
            groups = replica_groups(item.rest, math.prod(mesh_shape))
            axes = _axes_of(groups, mesh_shape, axis_names)
            size = max((len(group) for group in groups), default=math.prod(mesh_shape))
            entry = found.setdefault((kind, axes), [0.0, 0.0])
            entry[0] += times
            entry[1] += times * _wire_bytes(kind, item, computation, size)
    rows = [Collective(kind, axes, count, wire) for (kind, axes), (count, wire) in found.items()]
    return sorted(rows, key=lambda row: (-row.wire_bytes, row.kind, row.axes))


def _wire_bytes(kind: str, item: Instruction, computation: Computation, size: int) -> float:
    given = sum(
        computation.instructions[name].bytes
        for name in item.operands
        if name in computation.instructions
    )
    # An asynchronous start returns its operands together with its result.
    result = item.bytes - (given if item.opcode.endswith("-start") else 0.0)
    share = (size - 1) / size if size else 0.0
    if kind == "all-gather":
        return share * max(result, given)
    if kind == "all-reduce":
        return 2.0 * share * given
    if kind == "collective-permute":
        return given
    return share * given


def replica_groups(text: str, devices: int) -> list[list[int]]:
    """Return the groups of a collective, in all forms that HLO writes; pairs for a permutation.

    Raises:
        UnreadableProgram: the form is unknown.
    """
    pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text)
    explicit = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text)
    for found in (pairs, explicit):
        if found and found.group(1):
            lists = re.findall(r"\{([\d,]*)\}", found.group(1))
            return [[int(n) for n in part.split(",") if n] for part in lists]
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        shape, source = _integers(iota.group(1)), _integers(iota.group(2))
        ids = np.arange(math.prod(source)).reshape(source)
        if iota.group(3):
            ids = ids.transpose(_integers(iota.group(3)))
        return ids.reshape(shape).tolist()
    named = re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:,\s*device_ids=\(([^{]*)\))?\s*\{([^}]*)\}", text
    )
    if named:
        return _named_groups(*named.groups())
    unknown = re.search(r"(?:replica_groups|source_target_pairs)=(?!\{\})\S*", text)
    if unknown:
        raise UnreadableProgram(f"the groups {textwrap.shorten(unknown.group(), 80)!r} are unknown")
    return [list(range(devices))]


def _named_groups(mesh: str, order: str | None, chosen: str) -> list[list[int]]:
    """Return groups written with mesh axes: ``mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'b'}``.

    ``'a':(2)2`` is a part of an axis.
    """
    shape: list[int] = []
    inside: list[int] = []
    parts = {
        name: (int(before or 1), int(size or 0))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen)
    }
    for name, text in re.findall(r"'([^']+)'=(\d+)", mesh):
        size = int(text)
        before, taken = parts.get(name, (1, 1))
        taken = taken or size // before
        if name in parts:
            inside.append(len(shape) + 1)
        shape += [before, taken, size // (before * taken)]
    ids = _ordered_ids(order, math.prod(shape)).reshape(shape)
    outside = [i for i in range(len(shape)) if i not in inside]
    inner = math.prod(shape[i] for i in inside)
    return ids.transpose(outside + inside).reshape(-1, inner).tolist()


def _ordered_ids(order: str | None, count: int) -> np.ndarray:
    """Return device ids in the order of a mesh: counted up, transposed, or listed."""
    if not order:
        return np.arange(count)
    transposed = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", order)
    if transposed is None:
        return np.array(_integers(order))
    ids = np.arange(count).reshape(_integers(transposed.group(1)))
    return (ids.transpose(_integers(transposed.group(2))) if transposed.group(2) else ids).ravel()


def _integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _axes_of(
    groups: Sequence[Sequence[int]], mesh_shape: Sequence[int], axis_names: Sequence[str]
) -> str:
    """Return the mesh axes along which the devices of a group differ.

    Device ids count the mesh row by row.
    """
    different: set[str] = set()
    for group in groups:
        places = np.array(np.unravel_index(group, tuple(mesh_shape)))
        different |= {
            name for name, row in zip(axis_names, places, strict=True) if len(set(row.tolist())) > 1
        }
    return "+".join(name for name in axis_names if name in different) or "none"
