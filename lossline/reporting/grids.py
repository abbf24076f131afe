"""Tables of a report: compute laws, factors, effects, held-out scores, exclusions, runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.attribution.results import Attribution, Effect, Interval, Verdict
from lossline.fits.results import ComputeLawFit, TableFit
from lossline.lines.common_cases import Comparison, compare
from lossline.options.roles import OPTION_PREFIX, Role, fact_of
from lossline.reporting.appearance import text
from lossline.reporting.page import Cell, Column, Grid
from lossline.reporting.points import usable
from lossline.tables.continued import continued_note
from lossline.tables.schema import FACTS, Unit, of_run

RUN_ROWS = 300
_TONES = {
    "converged": "good",
    "bound_hit": "warn",
    "iteration_limit": "warn",
    "underdetermined": "warn",
    "abnormal": "bad",
}


def number(value: Any, digits: int = 4) -> str:
    """Return a number with this many significant digits; an en dash if there is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return "–"
    if not math.isfinite(value):
        return "–"
    if value and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{max(digits - 2, 1)}e}"
    return f"{value:.{digits}g}"


def interval(low: Any, high: Any, digits: int = 3) -> str:
    """Return an interval in brackets; empty if a bound is missing."""
    bounds = number(low, digits), number(high, digits)
    return "" if "–" in bounds else f"[{bounds[0]}, {bounds[1]}]"


def with_interval(value: Any, low: Any, high: Any) -> Cell:
    """Return a cell with an estimate, and its interval below."""
    return Cell(number(value), note=interval(low, high))


def p_number(value: Any) -> str:
    """Return a p-value with two digits, never a bare 0; an en dash if there is none."""
    shown = number(value, 2)
    return "< 0.0001" if shown != "–" and float(value) < 1e-4 else shown


def percent(value: Any) -> str:
    """Return a share or a relative error in percent; an en dash if missing."""
    shown = number(100 * float(value), 3) if pd.notna(value) else "–"
    return shown if shown == "–" else f"{shown}%"


def status_cell(status: Any, message: str = "") -> Cell:
    """Return a cell with a fit status, colored by its severity, and its message below."""
    word = str(getattr(status, "value", status))
    return Cell(word.replace("_", " "), _TONES.get(word, ""), message)


def group_columns(groups: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the facts that occur in any group, in order of first appearance."""
    return list(dict.fromkeys(fact for group in groups for fact in group))


def fact_columns(names: Sequence[str]) -> list[Column]:
    """Return one column per fact of the groups."""
    return [Column(name.replace("_", " "), keep=True) for name in names]


def compute_law_grid(laws: Sequence[ComputeLawFit]) -> Grid:
    """Return a table with one row per law from scale to loss."""
    facts = group_columns(law.group for law in laws)
    names = list(dict.fromkeys(name for law in laws for name in law.parameters if name != "E"))
    columns = [
        *fact_columns(facts), Column("set", keep=True),
        Column("unit", keep=True), Column("law", keep=True),
        Column("E", number=True), *[Column(name, number=True) for name in names],
        Column("R²", number=True), Column("runs", number=True), Column("points", number=True),
        Column("status", keep=True),
    ]  # fmt: skip
    rows = [
        [
            *[Cell(text(law.group.get(fact))) for fact in facts],
            Cell(law.eval_set),
            Cell(Unit(law.unit).words),
            Cell(law.law),
            with_interval(law.parameters.get("E"), law.E_low, law.E_high),
            *[Cell(number(law.parameters.get(name))) for name in names],
            Cell(number(law.r2, 5)),
            Cell(str(law.n_runs)),
            Cell(str(law.n_points)),
            status_cell(law.status, law.message),
        ]
        for law in laws
    ]
    equations = "; ".join(dict.fromkeys(f"{law.law}: {law.equation}" for law in laws))
    return Grid(
        title="Laws from scale to loss", columns=columns, rows=rows, caption=equations,
        empty="No law from scale to loss was fitted.",
    )  # fmt: skip


def factor_grid(attribution: Attribution) -> Grid:
    """Return a table with one row per factor: verdict, and the named effect in both units."""
    columns = [
        Column("factor", keep=True), Column("levels"), Column("verdict", keep=True),
        *[
            Column(title, number=True)
            for unit in Unit
            for title in (f"move, {unit.words}", "p (corrected)")
        ],
        Column("ratio to the largest", number=True), Column("share of variance", number=True),
        Column("evaluation set"), Column("runs", number=True),
    ]  # fmt: skip
    rows = []
    for factor in attribution.factors:
        headline = factor.named
        rows.append(
            [
                Cell(factor.label.removeprefix("the ")),
                Cell(", ".join(factor.levels)),
                Cell(str(factor.verdict), _verdict_tone(factor.verdict), factor.message),
                *_moves(factor.nats),
                *_moves(factor.bits_per_byte),
                Cell(number(factor.ratio, 2)),
                Cell(percent(headline.share) if headline else "–"),
                Cell(headline.y_set if headline else "–"),
                Cell(str(headline.runs) if headline else "–"),
            ]
        )
    return Grid(
        title="Verdicts", columns=columns, rows=rows,
        empty=attribution.message or "No factor was tested.",
    )  # fmt: skip


def _verdict_tone(verdict: Verdict) -> str:
    if verdict.moving:
        return "moved"
    if verdict in (Verdict.BELOW, Verdict.NO_MOVE):
        return "same"
    return "warn" if verdict is Verdict.UNRESOLVED else ""


def _moves(effect: Effect | None) -> list[Cell]:
    if effect is None:
        return [Cell("–"), Cell("–")]
    return [_move(effect.move), Cell(p_number(effect.p_corrected))]


def _move(move: Interval) -> Cell:
    return with_interval(move.value, move.low, move.high)


def effect_grid(attribution: Attribution) -> Grid:
    """Return a table with one row per factor, evaluation set and unit."""
    columns = [
        Column("factor", keep=True), Column("x", keep=True), Column("y", keep=True),
        Column("unit", keep=True), Column("levels", keep=True),
        Column("move [interval]", number=True), Column("p", number=True),
        Column("p corrected", number=True), Column("p resampled", number=True),
        Column("margin", number=True), Column("p (exceeds margin)", number=True),
        Column("smallest detectable", number=True),
        Column("share of variance", number=True), Column("partial R²", number=True),
        Column("noise", keep=True), Column("runs", number=True), Column("groups", number=True),
        Column("range of x", number=True),
    ]  # fmt: skip
    rows = [
        [
            Cell(factor.label.removeprefix("the ")),
            Cell(effect.x_set),
            Cell(effect.y_set),
            Cell(Unit(effect.unit).words),
            Cell(f"{effect.low_level} → {effect.high_level}"),
            _move(effect.move),
            Cell(p_number(effect.p_value)),
            Cell(p_number(effect.p_corrected)),
            Cell(p_number(effect.p_resampled)),
            Cell(number(effect.margin, 2)),
            Cell(p_number(effect.p_equivalent)),
            Cell(number(effect.detectable, 2)),
            Cell(percent(effect.share)),
            Cell(number(effect.partial_r2, 3)),
            Cell(effect.noise_from or "–"),
            Cell(str(effect.runs)),
            Cell(str(effect.groups)),
            Cell(f"{number(effect.x_low, 3)}–{number(effect.x_high, 3)}"),
        ]
        for factor in attribution.factors
        for effect in factor.effects
    ]
    return Grid(
        title="All comparisons", columns=columns, rows=rows, empty="Nothing could be compared.",
        caption="p: p-value of no move. p (exceeds margin): small where the move is shown to lie "
        "within the margin. Noise: own = from the runs compared; borrowed = from other runs, "
        "times 3.",
    )  # fmt: skip


def held_out_grid(heldout: pd.DataFrame) -> Grid:
    """Return a table with one row per method and unit: errors of held-out predictions.

    Methods are scored on the losses that all of them predicted. A method that predicted too few is
    listed below, together with the line on the same losses.
    """
    columns = [
        Column("method"), Column("unit", keep=True), Column("predicted", number=True),
        Column("scored", number=True), Column("runs", number=True),
        Column("median error", number=True), Column("mean error", number=True),
        Column("largest error", number=True), Column("bias", number=True),
        Column("within the interval", number=True),
    ]  # fmt: skip
    rows = []
    for found in compare(heldout):
        rows += [_score(found, name, name, found.rows) for name in found.methods]
        for apart, both in found.apart.items():
            for name in sorted(set(both["method"]), key=lambda name: name != apart):
                title = name if name == apart else f"{name}, on the losses of {apart}"
                rows.append(_score(found, name, title, both))
    return Grid(
        title="Scores", columns=columns, rows=rows,
        caption="Error: predicted / measured − 1; median, mean and largest are without the sign. "
        "Methods of one unit are scored on the losses that all of them predicted. A method that "
        "predicted too few is listed below them, with the line on the same losses.",
        empty="No run was held out: without its largest runs, no group determines a line.",
    )  # fmt: skip


def _score(found: Comparison, method: str, title: str, rows: pd.DataFrame) -> list[Cell]:
    part = rows[rows["method"] == method]
    error = part["relative_error"].to_numpy(float)
    size = np.abs(error)
    return [
        Cell(title),
        Cell(Unit(found.unit).words),
        Cell(f"{found.answered[method]} of {found.cases}"),
        Cell(str(len(part))),
        Cell(str(part["run_id"].nunique())),
        *[Cell(percent(pick(size))) for pick in (np.median, np.mean, np.max)],
        Cell(percent(np.mean(error))),
        Cell(_coverage(part)),
    ]


def _coverage(part: pd.DataFrame) -> str:
    known = part.dropna(subset=["low", "high", "measured"])
    if known.empty:
        return "–"
    inside = (known["measured"] >= known["low"]) & (known["measured"] <= known["high"])
    return f"{inside.mean():.0%} of {len(known)}"


def exclusion_grids(results: TableFit) -> list[Grid]:
    """Return two tables: what the fits left out, and the rows without a measurement."""
    excluded = results.excluded
    columns = [Column("what"), Column("rows", number=True), Column("reason", wide=True)]
    said = [
        [Cell(text(row.get("what"))), Cell(text(row.get("rows"))), Cell(text(row.get("reason")))]
        for row in excluded.to_dict("records")
    ]
    table = results.table
    bad = table[table["status"] != "ok"] if "status" in table else table.iloc[:0]
    groups = bad.assign(message=bad["message"].fillna("no reason given")) if len(bad) else bad
    counted: list[list[Cell]] = []
    if len(bad):
        for (status, message), part in groups.groupby(["status", "message"], observed=True):
            runs = sorted(part["run_id"].astype(str).unique())
            shown = ", ".join(runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
            counted.append(
                [
                    Cell(str(status), "bad" if status == "failed" else "warn"),
                    Cell(str(len(part))),
                    Cell(shown),
                    Cell(str(message)),
                ]
            )
    return [
        Grid(
            title="Left out of the fits, or uncertain", columns=columns, rows=said,
            empty="Nothing was left out of the fits.",
        ),
        Grid(
            title="Rows of the loss table without a measurement",
            columns=[
                Column("status"), Column("rows", number=True), Column("runs"),
                Column("reason", wide=True),
            ],
            rows=counted,
            empty="Every row of the loss table is a measurement.",
        ),
    ]  # fmt: skip


_COUNTED = frozenset({"params", "params_non_embedding", "tokens", "start_tokens"})


def run_grid(table: pd.DataFrame) -> Grid:
    """Return a table with one row per run and the facts that differ between runs.

    Facts that are the same for all runs are in the caption.
    """
    # A large table is not copied: only the last checkpoint of each run is.
    rows = usable(table)
    checkpoints = rows[["run_id", "step"]].drop_duplicates().sort_values(["run_id", "step"])
    last = rows.loc[checkpoints.drop_duplicates("run_id", keep="last").index]
    recorded, varied = _recorded(last), varied_facts(last)
    same = [
        f"{fact.replace('_', ' ')}: {fact_text(fact, last[fact].iloc[0])}"
        for fact in recorded
        if fact not in varied and fact in FACTS
    ]
    caption = f"All runs: {', '.join(same)}. " if same and len(last) > 1 else ""
    if note := continued_note(last):
        caption += f"{note} "
    if len(last) > RUN_ROWS:
        caption += f"Only the first {RUN_ROWS} of {len(last)} runs are shown."
    counts = checkpoints["run_id"].value_counts()
    columns = [
        Column("run", keep=True),
        *[Column(_heading(fact), number=_numeric(last[fact])) for fact in varied],
        Column("checkpoints", number=True),
        Column("tokens", number=True),
        Column("FLOPs", number=True),
    ]
    body = [
        [
            Cell(text(row["run_id"])),
            *[Cell(fact_text(fact, row[fact])) for fact in varied],
            Cell(str(counts.get(row["run_id"], 0))),
            Cell(fact_text("tokens", row["tokens"])),
            Cell(number(row.get("flops"), 3)),
        ]
        for row in last.head(RUN_ROWS).to_dict("records")
    ]
    return Grid(
        title="Runs", columns=columns, rows=body, caption=caption,
        empty="The loss table has no runs.",
    )  # fmt: skip


def varied_facts(runs: pd.DataFrame) -> list[str]:
    """Return the facts that differ between runs; ``runs`` has one row per run."""
    return [fact for fact in _recorded(runs) if runs[fact].nunique(dropna=False) > 1]


def fact_text(name: str, value: Any) -> str:
    """Return a fact as text; counts have a suffix, such as 417M."""
    if name == "start_flops":
        return number(value, 3)
    return count(value) if name in _COUNTED else text(value)


def _recorded(runs: pd.DataFrame) -> list[str]:
    return [fact for fact in _run_facts(runs) if runs[fact].notna().any()]


def _run_facts(table: pd.DataFrame) -> list[str]:
    """Columns of facts to show: all named facts, and the options whose role is factor.

    Dimensions, lengths and implementations are left out; they are in config.json.
    """
    columns = [name for name in of_run(map(str, table.columns)) if name != "run_id"]
    return [name for name in columns if not name.startswith(OPTION_PREFIX) or _is_factor(name)]


def _is_factor(column: str) -> bool:
    fact = fact_of(column)
    return (
        fact is not None
        and fact.role is Role.FACTOR
        and fact.column == column
        and fact.owner != "pretraining_data"  # a store's fingerprint: the data have a name
    )


def _heading(column: str) -> str:
    return column.removeprefix(OPTION_PREFIX).replace("_", " ")


def count(value: Any) -> str:
    """Return a large count with a suffix, such as 417M or 1.24B; an en dash if there is none."""
    if value is None or pd.isna(value):
        return "–"
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values)


def mapping_grid(title: str, mapping: Mapping[str, Any]) -> Grid:
    """Return a table of names and values; names of nested mappings are joined with dots."""
    rows = [[Cell(name), Cell(value)] for name, value in _flat(mapping)]
    return Grid(title=title, columns=[Column("name", keep=True), Column("value")], rows=rows)


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(text(item) for item in value) or "none"
        else:
            yield f"{prefix}{name}", text(value)
