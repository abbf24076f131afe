"""Read a compiled program: how often each instruction runs, and what it moves.

XLA's own cost analysis counts the body of a loop once, whatever its trip count, so a model of
scanned layers looks like a model of one layer. This file reads the text of the optimized HLO
instead and multiplies by the trip counts.

The text is not a stable interface. This file was tested with the CPU compiler of the versions in
``TESTED``, and with the GPU and TPU compilers of the first of them. Text that it does not
understand raises ``UnreadableProgram`` instead of giving a wrong number.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field

import jaxlib

from lossline.errors import UserError

TESTED = "0.10.2, 0.11.2 or 0.12.0"
_BITS = {
    "pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16,
    "s32": 32, "u32": 32, "s64": 64, "u64": 64, "f16": 16, "bf16": 16, "f32": 32, "f64": 64,
    "c64": 64, "c128": 128, "token": 0, "opaque": 0,
}  # fmt: skip
_FLOAT8 = re.compile(r"f8e\d\w*")
_ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?.*\{\s*$")
_OPCODE = re.compile(r"[a-z][a-z0-9\-]*")
_NAME = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_OPERAND = re.compile(r"%([\w.\-]+)")
_COMMENT = re.compile(r"/\*.*?\*/")
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip


# Opcode prefixes of communication; one of them with an unknown opcode is not counted but refused.
_COMMUNICATION = ("all-", "collective-", "ragged-", "reduce-scatter")


class UnreadableProgram(UserError):
    """Raised when the text of a compiled program cannot be understood."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"cannot read the program that jaxlib {jaxlib.__version__} compiled: {problem}. "
            f"Install a tested jaxlib: {TESTED}"
        )


@dataclass(frozen=True)
class Array:
    """One array of a shape.

    Attributes:
        bytes: size in bytes.
        main_memory: whether it lies in the main memory (HBM) of the device.
    """

    bytes: float
    main_memory: bool


@dataclass(frozen=True)
class Instruction:
    """One instruction of HLO.

    Attributes:
        name: name of the result.
        opcode: operation.
        arrays: arrays of the result.
        operands: names of the operands.
        rest: text after the opcode's opening parenthesis.
        root: whether it is the result of its computation.
    """

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool

    @property
    def bytes(self) -> float:
        """Bytes of the result."""
        return sum(array.bytes for array in self.arrays)

    def called(self, attribute: str) -> str | None:
        """Return the name of the computation in an attribute such as ``body``, or None."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found.group(1) if found else None


@dataclass
class Computation:
    """A computation of HLO: instructions by name, in the order of the text."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        """The instruction that is the result."""
        values = list(self.instructions.values())
        return next((item for item in values if item.root), values[-1])

    def parameter(self, index: int) -> Instruction | None:
        """Return the instruction of an argument, or None."""
        for item in self.instructions.values():
            if item.opcode == "parameter" and item.rest.startswith(f"{index})"):
                return item
        return None


@dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
        computations: computations by name.
        entry: name of the computation that runs first.
        runs: computation -> how often it runs.
        fused: computations inside a fusion.
        unknown_loops: loops whose trip count the text does not give, counted as one trip.
    """

    computations: dict[str, Computation]
    entry: str
    runs: dict[str, float]
    fused: frozenset[str]
    unknown_loops: int

    @classmethod
    def parse(cls, text: str) -> Program:
        """Read the text of ``compiled.as_text()``.

        Raises:
            UnreadableProgram: the text has no ENTRY computation, or a line, an operand, a data type
                or a called computation that this file does not understand.
        """
        computations, entry = _computations(text)
        if entry not in computations:
            raise UnreadableProgram("its text has no ENTRY computation")
        for computation in computations.values():
            _require_readable(computation)
        runs: dict[str, float] = {}
        fused: set[str] = set()
        unknown = _count_runs(computations, entry, 1.0, runs, fused)
        return cls(computations, entry, runs, frozenset(fused), unknown)

    def executed(self, *, fused: bool) -> Iterator[tuple[Instruction, Computation, float]]:
        """Yield (instruction, its computation, how often it runs) of fused or of other
        computations.
        """
        for name, times in self.runs.items():
            if (name in self.fused) == fused:
                for item in self.computations[name].instructions.values():
                    yield item, self.computations[name], times


def _computations(text: str) -> tuple[dict[str, Computation], str]:
    computations: dict[str, Computation] = {}
    current: Computation | None = None
    entry = ""
    for line in _lines(text):
        if current is None:
            header = _HEADER.match(line) if line[:1] not in (" ", "}", "") else None
            if header and not line.startswith("HloModule"):
                current = Computation(header.group(2))
                computations[current.name] = current
                entry = current.name if header.group(1) else entry
            continue
        if line == "}":
            current = None
            continue
        item = _instruction(line)
        current.instructions[item.name] = item
    return computations, entry


def _require_readable(computation: Computation) -> None:
    """Refuse a computation if the counts would leave out a part of it.

    Raises:
        UnreadableProgram: an opcode is unknown communication, or an operand is not found.
    """
    if not computation.instructions:
        raise UnreadableProgram(f"computation {computation.name} has no instruction")
    for item in computation.instructions.values():
        kind = item.opcode.removesuffix("-start").removesuffix("-done")
        if kind.startswith(_COMMUNICATION) and kind not in COLLECTIVES:
            raise UnreadableProgram(f"operation {item.opcode} of {item.name} is unknown")
        missing = [name for name in item.operands if name not in computation.instructions]
        if missing:
            raise UnreadableProgram(f"operand {missing[0]} of {item.name} is not in its text")


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of the text; join the lines of an attribute with line breaks (kernel
    metadata).
    """
    held = ""
    for line in text.splitlines():
        if held.startswith("  ") and line != "}" and not line.startswith("  "):
            held += line
            continue
        if held:
            yield held
        held = line
    if held:
        yield held


def _instruction(line: str) -> Instruction:
    shown = textwrap.shorten(line, 120)
    found = _NAME.match(line)
    if not found:
        raise UnreadableProgram(f"the line {shown!r} is not an instruction")
    text = _COMMENT.sub("", line[found.end() :])
    end = _balanced(text, 0) if text.startswith("(") else text.find(" ")
    opcode, parenthesis, arguments = text[end:].lstrip().partition("(")
    if end < 0 or not parenthesis or not _OPCODE.fullmatch(opcode):
        raise UnreadableProgram(f"the line {shown!r} has no operation")
    close = _balanced("(" + arguments, 0) - 2
    given = arguments[:close]
    operands = () if opcode in ("parameter", "constant") else tuple(_OPERAND.findall(given))
    if given.strip() and not operands and opcode not in ("parameter", "constant"):
        raise UnreadableProgram(f"the line {shown!r} has no operand with a name")
    return Instruction(
        name=found.group(2),
        opcode=opcode,
        arrays=tuple(_arrays(text[:end])),
        operands=operands,
        rest=arguments,
        root=bool(found.group(1)),
    )


def _balanced(text: str, start: int) -> int:
    """Return the position after the parenthesis that closes the one at ``start``."""
    depth = 0
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position + 1
    return len(text)


def _arrays(shape: str) -> Iterator[Array]:
    # Only the parentheses and commas of tuples may remain next to the arrays.
    if _ARRAY.sub("", shape).strip("(), "):
        raise UnreadableProgram(f"the shape {textwrap.shorten(shape, 80)!r} is unknown")
    for dtype, sizes, layout in _ARRAY.findall(shape):
        bits = 8 if _FLOAT8.fullmatch(dtype) else _BITS.get(dtype)
        if bits is None:
            raise UnreadableProgram(f"the data type {dtype!r} is unknown")
        count = math.prod(int(size) for size in sizes.split(",") if size)
        # "S(n)" in a layout is a memory space other than HBM: scratch memory, or the host.
        yield Array(bytes=count * bits / 8, main_memory="S(" not in (layout or ""))


def _count_runs(
    computations: dict[str, Computation],
    name: str,
    times: float,
    runs: dict[str, float],
    fused: set[str],
) -> int:
    """Add ``times`` to a computation and, by trip counts, to all that it calls.

    Returns:
        The number of loops without a known trip count.
    """
    runs[name] = runs.get(name, 0.0) + times
    unknown = 0
    for item in computations[name].instructions.values():
        for callee, factor, inside in _calls(item, computations):
            if callee not in computations:
                raise UnreadableProgram(f"computation {callee} of {item.name} is not in its text")
            if factor is None:
                unknown += 1
            if inside or name in fused:
                fused.add(callee)
            unknown += _count_runs(computations, callee, times * (factor or 1.0), runs, fused)
    return unknown


def _calls(
    item: Instruction, computations: dict[str, Computation]
) -> Iterator[tuple[str, float | None, bool]]:
    """Yield (computation, how often the instruction runs it or None, whether it is fused)."""
    if item.opcode == "while":
        body, condition = item.called("body"), item.called("condition")
        if not body:
            raise UnreadableProgram(f"the loop {item.name} has no body")
        yield body, _trips(item, computations.get(condition or "")), False
        return
    if item.opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", item.rest)
        names = _OPERAND.findall(branches.group(1)) if branches else []
        names += [n for n in map(item.called, ("true_computation", "false_computation")) if n]
        if not names:
            raise UnreadableProgram(f"the conditional {item.name} has no branch")
        yield max(names, key=lambda name: _moved(name, item, computations)), 1.0, False
        return
    if item.opcode in ("fusion", "call", "async-start") or "calls=" in item.rest:
        callee = item.called("calls") or (item.opcode == "call" and item.called("to_apply"))
        if not callee:
            raise UnreadableProgram(f"the {item.opcode} {item.name} calls no computation")
        yield callee, 1.0, item.opcode == "fusion"


def _moved(name: str, item: Instruction, computations: dict[str, Computation]) -> float:
    """Return the bytes that one run of a branch of ``item`` moves, with all that it calls."""
    if name not in computations:
        raise UnreadableProgram(f"computation {name} of {item.name} is not in its text")
    branch, runs = computations[name], dict[str, float]()
    fused: set[str] = set()
    unknown = _count_runs(computations, name, 1.0, runs, fused)
    return memory_traffic(Program(computations, branch.name, runs, frozenset(fused), unknown))


def _trips(loop: Instruction, condition: Computation | None) -> float | None:
    known = re.search(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)', loop.rest)
    if known:
        return float(known.group(1))
    if condition is None:
        return None
    constants = [
        int(item.rest.split(")")[0])
        for item in condition.instructions.values()
        if item.opcode == "constant" and re.match(r"-?\d+\)", item.rest)
    ]
    # A loop of jax.lax.scan counts from 0 in steps of 1 to the only constant of its condition.
    return float(constants[0]) if len(constants) == 1 else None


# --- memory traffic ------------------------------------------------------------------------------

_FREE = frozenset({
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency", "domain",
    "custom-call-done", "async-update",
})  # fmt: skip
_NO_TRAFFIC_CALLS = ("AllocateBuffer", "ConcatBitcast", "Sharding", "AssumeGatherIndicesInBound")
_PALLAS = 'custom_call_target="tpu_custom_call"'


def memory_traffic(program: Program) -> float:
    """Return the bytes that one run reads from and writes to the main memory of the device.

    If an array is only sliced, the slice counts; if it is updated in place, the update counts.
    Pallas kernels are left out, because the text does not show what they move; see
    ``kernels.kernel_bytes``.
    """
    return sum(
        times * _traffic(item, computation, program)
        for item, computation, times in program.executed(fused=False)
    )


def _traffic(item: Instruction, computation: Computation, program: Program) -> float:
    opcode = item.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0.0
    if opcode == "custom-call" and any(name in item.rest for name in (*_NO_TRAFFIC_CALLS, _PALLAS)):
        return 0.0
    if opcode in ("copy-start", "slice-start"):
        two = sorted(item.arrays[:2], key=lambda array: array.bytes)
        return two[0].bytes * sum(array.main_memory for array in two) if two else 0.0
    if opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _main(item)
    if opcode == "dynamic-update-slice":
        update = computation.instructions.get(item.operands[1])
        return 2.0 * _main(update) if update else 0.0
    reads = sum(
        _read(index, operand, item, computation, program)
        for index, operand in enumerate(item.operands)
    )
    return reads + _written(item, program)


def _main(item: Instruction) -> float:
    return sum(array.bytes for array in item.arrays if array.main_memory)


def _read(
    index: int, operand: str, item: Instruction, computation: Computation, program: Program
) -> float:
    source = computation.instructions.get(operand)
    whole = 0.0 if source is None else _main(source)
    inner = _fused(item, program)
    parameter = inner.parameter(index) if inner else None
    if not whole or inner is None or parameter is None:
        return whole
    sliced = _sliced(parameter, inner, program)
    return whole if sliced is None else min(whole, sliced)


def _fused(item: Instruction, program: Program) -> Computation | None:
    """Return the computation inside a fusion; None for other instructions."""
    return program.computations.get(item.called("calls") or "") if item.opcode == "fusion" else None


def _sliced(array: Instruction, computation: Computation, program: Program) -> float | None:
    """Return the bytes that a fused computation reads of an array by slices or in-place updates.

    Fusions inside the fusion count too. The result is None if the whole array is read.
    """
    total = 0.0
    for user in computation.instructions.values():
        for index in (i for i, name in enumerate(user.operands) if name == array.name):
            read: float | None = None
            if index == 0 and user.opcode in ("dynamic-slice", "slice", "gather"):
                read = user.bytes
            elif index == 0 and user.opcode == "dynamic-update-slice":
                read = 0.0
            elif user.opcode == "bitcast":
                read = _sliced(user, computation, program)
            elif inner := _fused(user, program):
                parameter = inner.parameter(index)
                read = _sliced(parameter, inner, program) if parameter else None
            if read is None:
                return None
            total += read
    return total


def _written(item: Instruction, program: Program) -> float:
    inner = _fused(item, program)
    if inner is None:
        return _main(item)
    results = [inner.root]
    if inner.root.opcode == "tuple":
        results = [inner.instructions[n] for n in inner.root.operands if n in inner.instructions]
    if len(results) != len(item.arrays):
        return _main(item)
    return sum(
        _updated(result, inner, program, array.bytes)
        for result, array in zip(results, item.arrays, strict=True)
        if array.main_memory
    )


def _updated(
    result: Instruction, computation: Computation, program: Program, whole: float
) -> float:
    """Return the bytes that a fusion writes of one of its results.

    If the result is an array updated in place, only the update counts.
    """
    if result.opcode == "dynamic-update-slice":
        update = computation.instructions.get(result.operands[1])
        return update.bytes if update else whole
    if result.opcode == "bitcast":
        source = computation.instructions.get(result.operands[0])
        return _updated(source, computation, program, whole) if source else whole
    inner = _fused(result, program)
    if inner is not None and inner.root.opcode != "tuple":
        return _updated(inner.root, inner, program, whole)
    return whole
