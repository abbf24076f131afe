"""Schema of the loss table: one row = one checkpoint × one evaluation set, in long form.

This file is the contract between the half that trains and evaluates and the half that fits. It
defines the columns, their units and which of them may be empty. It imports nothing heavy.

Some columns are open: their name starts with a prefix of ``OPEN_COLUMNS`` (``option.batch_size``),
and a table has as many of them as its runs need. Columns that start with ``x_`` are kept untouched.
Any other name is refused, so that a misspelled column cannot look like an empty one. Two ``x_``
columns are used: ``x_chance``, the accuracy of guessing on the row's set
(``lossline.tables.chance``), and ``x_training_loss``, the training loss at the row's checkpoint
(``lossline.prediction.observations``).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from dataclasses import dataclass

EXTRA_PREFIX = "x_"
# Validation set of each run's own pretraining data. Its text differs between pretraining sets, so
# that losses on it are never compared at equal x.
OWN_SET = "own"


class Kind(enum.Enum):
    """How a column is stored in memory (pandas) and on disk (Parquet)."""

    TEXT = "text"  # pandas string with NaN for missing; Parquet string
    COUNT = "count"  # pandas Int64 (nullable); Parquet int64
    NUMBER = "number"  # float64 with NaN for missing; Parquet double


class SetKind(enum.StrEnum):
    """What an evaluation set measures: the loss of running text, or of gold answers."""

    VALIDATION = "validation"
    TASK = "task"


class Unit(enum.StrEnum):
    """Unit of a loss. The value is the column of the loss table that holds it."""

    NATS = "loss"
    BITS = "bits_per_byte"

    @property
    def words(self) -> str:
        """Name on an axis or in a table."""
        return "nats per token" if self is Unit.NATS else "bits per byte"

    @property
    def short(self) -> str:
        """Name after a number in a sentence."""
        return "nats" if self is Unit.NATS else "bits per byte"


class Status(enum.StrEnum):
    """Whether a row is a measurement.

    A row with status ``failed`` has no value; an ``excluded`` one is kept, but never fitted.
    """

    OK = "ok"
    FAILED = "failed"
    EXCLUDED = "excluded"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the loss table.

    Attributes:
        name: its name, or prefix of an open column.
        kind: how it is stored.
        meaning: what it holds.
        required: whether every row must have a value.
        added: whether tables exist that were written before the column did; there it is empty.
    """

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    added: bool = False


def _text(name: str, meaning: str, **more: bool) -> Column:
    return Column(name=name, kind=Kind.TEXT, meaning=meaning, **more)


def _count(name: str, meaning: str, **more: bool) -> Column:
    return Column(name=name, kind=Kind.COUNT, meaning=meaning, **more)


def _number(name: str, meaning: str, **more: bool) -> Column:
    return Column(name=name, kind=Kind.NUMBER, meaning=meaning, **more)


_FACTS = (
    _text("run_id", "the training run; unique within the table", required=True),
    _text("architecture", "model family, e.g. llama, mamba"),
    _text("pretraining_data", "what the run was trained on"),
    _text(
        "data_selection", "how the pages of pretraining_data were selected; empty = not", added=True
    ),
    _text("tokenizer", "tokenizer of the training text"),
    _count("context_length", "training context, tokens"),
    _text("optimizer", "optimizer and its variant, e.g. adamw"),
    _text("schedule", "learning-rate schedule, e.g. cosine, wsd, constant"),
    _number("learning_rate", "peak learning rate"),
    _number("weight_decay", "decoupled weight decay"),
    _text("token_selection", "which tokens were trained on; empty = all"),
    _number("params", "N, everything counted"),
    _number("params_non_embedding", "N without both embedding matrices"),
    _count("seed", "seed of initialization and data order"),
    _text(
        "start_run",
        "the run whose parameters it started from; empty = fresh parameters",
        added=True,
    ),
    _count("start_step", "step of start_run's checkpoint", added=True),
    _number(
        "start_tokens",
        "tokens of start_run up to that checkpoint, and of its own origins",
        added=True,
    ),
    _number(
        "start_flops",
        "FLOPs of start_run up to that checkpoint, and of its own origins",
        added=True,
    ),
    _text("source", "where the measurement comes from: this project, or a published sweep"),
)
_CHECKPOINT = (
    _count("step", "optimizer steps at the checkpoint", required=True),
    _number("tokens", "D, training tokens seen; without start_tokens", required=True),
    _number("flops", "C, training FLOPs spent; without start_flops and selection_flops"),
    _number(
        "trained_tokens",
        "tokens whose loss was trained on; fewer with token_selection",
        added=True,
    ),
    _number(
        "selection_flops",
        "FLOPs of the token selection: training of the reference (without a shared start), its "
        "scoring, further forward passes; empty = unknown",
        added=True,
    ),
)
_SET = (
    _text("eval_set", "name of the evaluation set", required=True),
    _text("kind", "validation or task", required=True),
)
_MEASUREMENT = (
    _number("nats", "sum of the negative log-likelihood over the scored targets, nats"),
    _count("target_tokens", "scored targets"),
    _count("target_bytes", "UTF-8 bytes of original text that the scored targets cover"),
    _count("documents", "documents or questions' answers scored"),
    _count("correct", "questions answered correctly"),
    _count("questions", "questions asked"),
    _count("truncated", "documents truncated by the rule for long documents"),
    _number("loss", "nats / target_tokens"),
    _number("bits_per_byte", "nats / (ln 2 · target_bytes)"),
    _number("accuracy", "correct / questions"),
    _text("status", "ok, failed or excluded", required=True),
    _text("message", "why a row failed or was excluded"),
)

COLUMNS: tuple[Column, ...] = _FACTS + _CHECKPOINT + _SET + _MEASUREMENT
COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
FACTS: tuple[str, ...] = tuple(column.name for column in _FACTS)
START: tuple[str, ...] = tuple(name for name in FACTS if name.startswith("start_"))
CHECKPOINT: tuple[str, ...] = tuple(column.name for column in _CHECKPOINT)
COUNTS: tuple[str, ...] = tuple(column.name for column in COLUMNS if column.kind is Kind.COUNT)
# Columns by prefix. All but the component tokens are facts of the run.
SHARE = "share."
COMPONENT_TOKENS = "component_tokens."
OPEN_COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        _text("option.", "an option of the run, by its path in the run's identity"),
        _text("factor.", "the level of a factor that a grid or a user named"),
        _number(SHARE, "share of the training rows that a mixture requests of this component"),
        _number(COMPONENT_TOKENS, "training tokens seen of this component of the mixture"),
    )
}


def column_of(name: str) -> Column | None:
    """Return the column of this name, open ones included; None for ``x_`` and unknown names."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    prefix = next((p for p in OPEN_COLUMNS if name.startswith(p) and name != p), None)
    return None if prefix is None else dataclasses.replace(OPEN_COLUMNS[prefix], name=name)


def is_known(name: str) -> bool:
    """Return whether a loss table may have a column of this name."""
    return name.startswith(EXTRA_PREFIX) or column_of(name) is not None


def of_run(names: Iterable[str]) -> list[str]:
    """Return the columns that are facts of a run: a run has one value of each."""
    return [
        name
        for name in names
        if name in FACTS or (name not in _BY_NAME and not of_checkpoint([name]) and column_of(name))
    ]


def of_checkpoint(names: Iterable[str]) -> list[str]:
    """Return the columns that are facts of a checkpoint."""
    return [name for name in names if name in CHECKPOINT or name.startswith(COMPONENT_TOKENS)]


_BY_NAME = {column.name: column for column in COLUMNS}
KEY: tuple[str, ...] = ("run_id", "step", "eval_set")
