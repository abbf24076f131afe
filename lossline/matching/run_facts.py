"""Recorded facts of the runs of a loss table, as text levels that can be compared."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pandas as pd

from lossline.options.roles import FACTS, OPTION_PREFIX, OWN_PREFIX, SIZE, Fact, Role, fact_of
from lossline.tables.cells import as_numbers
from lossline.tables.continued import is_continued

NOT_RECORDED = "not recorded"
NOT_APPLICABLE = "–"  # the run's architecture, optimizer or schedule does not have this option
START_OPTION = f"{OPTION_PREFIX}start"
FRESH = "fresh parameters"
SHAPE = "shape"  # all dimensions of the model together
_OWNED_SIZES = tuple(f.column for f in FACTS if f.role is Role.SIZE and f.owner)
# Columns that describe a model's size in more detail than its size class.
SIZE_COLUMNS = (SHAPE, *_OWNED_SIZES)
_LISTED = {f.column for f in FACTS} | {OPTION_PREFIX + f.option for f in FACTS if f.option}
_STORE = tuple(f.column for f in FACTS if f.owner == "pretraining_data")
# Runs whose parameter counts differ by less than this factor have one size: two architectures never
# have exactly the same count.
_SAME_SIZE = 1.2


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFacts:
    """Facts per run (index: run_id, sorted), as text.

    Attributes:
        factors: one column per factor; the model size in classes; ``SIZE_COLUMNS`` where the
            options of the runs are recorded; and ``source``.
        own: columns ``factor.<name>``: the user's own factors.
        others: options of every other role (seeds, steps, implementations).
        size: parameters per run.
        size_column: column of the loss table that ``size`` comes from.
    """

    factors: pd.DataFrame
    own: pd.DataFrame
    others: pd.DataFrame
    size: pd.Series
    size_column: str


def run_facts(table: pd.DataFrame) -> RunFacts:
    """Return the facts of the runs of a loss table."""
    runs = table.drop_duplicates("run_id").set_index("run_id").sort_index()
    options = _options(runs)
    size_column = "params_non_embedding" if runs["params_non_embedding"].notna().all() else "params"
    size = runs[size_column].astype(float)
    columns: dict[str, pd.Series] = {}
    for fact in FACTS:
        if fact.column == SIZE:
            columns[SIZE] = _size_classes(size)
        elif fact.role is Role.FACTOR and not fact.column.startswith(OPTION_PREFIX):
            columns[fact.column] = _named_cells(runs, fact).map(_text, na_action=None)
        elif fact.column in options and _is_matched(fact.column):
            columns[fact.column] = options[fact.column]
    unlisted = [name for name in options if name not in _LISTED]
    columns |= {name: options[name] for name in unlisted}
    if (starts := _starts(runs, options)) is not None:
        columns[START_OPTION] = starts
    columns["pretraining_data"] = _unique_by_content(
        columns["pretraining_data"], columns["tokenizer"], options
    )
    if (shape := _shape(options)) is not None:
        columns[SHAPE] = shape
    columns["source"] = runs["source"].map(_text, na_action=None)
    own = [name for name in runs if str(name).startswith(OWN_PREFIX)]
    others = [name for name in options if _is_other(str(name))]
    return RunFacts(
        factors=pd.DataFrame(columns, index=runs.index).astype(object),
        own=runs[own].astype(object).where(runs[own].notna(), NOT_RECORDED),
        others=options[others],
        size=size,
        size_column=size_column,
    )


def _named_cells(runs: pd.DataFrame, fact: Fact) -> pd.Series:
    """Cells of a named column; empty ones are filled from the option column of the same fact.

    An imported table may have only the option column.
    """
    cells = runs[fact.column].astype(object)
    option = OPTION_PREFIX + fact.option
    if option not in runs:
        return cells
    given = runs[option].astype(object)
    return cells.where(cells.notna(), as_numbers(given) if fact.numeric else given)


def _is_matched(column: str) -> bool:
    fact = fact_of(column)
    factor = fact is not None and fact.role is Role.FACTOR and column not in _STORE
    return factor or column in _OWNED_SIZES


def _is_other(column: str) -> bool:
    fact = fact_of(column)
    return fact is not None and fact.role in (Role.ALONG, Role.REPLICATE, Role.NUMERICS)


def _options(runs: pd.DataFrame) -> pd.DataFrame:
    """Option columns with empty cells filled.

    In a run that records other options, an empty cell means "not applicable"; else "not recorded".
    """
    columns = [name for name in runs if str(name).startswith(OPTION_PREFIX)]
    cells = runs[columns].astype(object)
    for name in columns:
        if (fact := fact_of(str(name))) is not None and fact.numeric:
            cells[name] = _one_spelling(cells[name])
    recorded = cells.notna().any(axis=1)
    filled = cells.where(cells.notna(), NOT_APPLICABLE)
    return filled.where(recorded, NOT_RECORDED) if columns else filled


def _unique_by_content(data: pd.Series, tokenizer: pd.Series, options: pd.DataFrame) -> pd.Series:
    """Names of the pretraining data, made unique by content.

    Where one name and tokenizer stand for stores of different content, the first 8 digits of the
    store's fingerprint are added.
    """
    names = [name for name in _STORE if name in options]
    if not names:
        return data
    store = options[names].agg(" ".join, axis=1)
    several = store.groupby([data, tokenizer]).transform("nunique") > 1
    digests = store.map(lambda text: hashlib.sha256(text.encode()).hexdigest()[:8])
    marks = store.where(store.str.fullmatch("[0-9a-f]{64}.*"), digests).str[:8]
    return data.where(~several, data + " (store " + marks + ")")


def _starts(runs: pd.DataFrame, options: pd.DataFrame) -> pd.Series | None:
    """What the parameters of each run started from, such as ``base step 200``; None if all fresh.

    Equal parameters are one level, whatever the run is called that they come from. Where one name
    stands for different parameters, the first 8 digits of their fingerprint are added.
    """
    continued = is_continued(runs)
    if not continued.any():
        return None
    name = runs["start_run"] + " step " + runs["start_step"].astype("string").fillna("unknown")
    content = name
    if START_OPTION in options:
        given = runs[START_OPTION]
        content = given.where(given.notna(), name)
    first = name.groupby(content).transform("min")
    several = content.groupby(first).transform("nunique") > 1
    level = first.where(~several, first + " (" + content.str[:8] + ")")
    return level.where(continued, FRESH).astype(object)


def _shape(options: pd.DataFrame) -> pd.Series | None:
    """Dimensions that vary, as text such as ``layers 3, width 96``; None if none is recorded."""
    names = [
        str(name)
        for name in options
        if (fact := fact_of(str(name))) is not None
        and fact.role is Role.SIZE
        and name not in _OWNED_SIZES
    ]
    if not names:
        return None
    varied = [name for name in names if options[name].nunique() > 1]
    texts = [
        (name.rpartition(".")[2] + " ") + options[name].where(options[name] != NOT_APPLICABLE, "–")
        for name in varied
    ]
    if not texts:
        return pd.Series("one", index=options.index, dtype=object)
    return pd.concat(texts, axis=1).agg(", ".join, axis=1)


def _text(value: object) -> str:
    if value is None or value is pd.NA or value != value:
        return NOT_RECORDED
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"  # so that 3e-4 with a rounding error is still 3e-4
    return str(value)


def _one_spelling(cells: pd.Series) -> pd.Series:
    """Numbers in one spelling, so that 32 and 32.0 are one level; other cells unchanged."""
    numbers = as_numbers(cells)
    spelled = numbers.map(lambda n: str(int(n)) if float(n).is_integer() else f"{n:.10g}")
    return cells.where(numbers.isna(), spelled)


def _size_classes(size: pd.Series) -> pd.Series:
    """Size class of each run, as text.

    Starting from the smallest size, a class holds all sizes up to ``_SAME_SIZE`` times its smallest
    one.
    """
    labels = pd.Series(NOT_RECORDED, index=size.index, dtype=object)
    members: list[str] = []
    for run, value in size.dropna().sort_values(kind="stable").items():
        if members and value > _SAME_SIZE * size[members[0]]:
            labels[members] = _size_label(size[members])
            members = []
        members.append(str(run))
    if members:
        labels[members] = _size_label(size[members])
    return labels


def _size_label(sizes: pd.Series) -> str:
    low, high = _short(float(sizes.min())), _short(float(sizes.max()))
    return low if low == high else f"{low}–{high}"


def _short(value: float) -> str:
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"
