"""Predictions as text: what ``python -m lossline.predict`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from lossline.fits.prediction_numbers import (
    OPEN,
    coverage,
    errors_by_method,
    has_number,
    largest_changes,
    of_default,
    open_stages,
    outlier_runs,
)
from lossline.prediction.results import Predictions, TargetKind

_NAMED = 4  # names in one line; the others are counted
_HEADERS = {
    TargetKind.PREDICTION: "Prediction of runs that were left out of the fit",
    TargetKind.PROJECTION: "Projection of models that nobody has trained",
}


def summary(found: Predictions) -> str:
    """Return the predictions as text.

    First one line per task and target by the default method, predictions and projections apart.
    Then the errors of every method, the coverage of the intervals, what has no number and why, what
    leaving out each size does, and what to know.
    """
    parts = [_table(found, kind) for kind in TargetKind]
    parts += [[*_errors(found), *_coverage(found), *_decisions(found)]]
    parts += [_without_number(found), _influence(found), _to_know(found)]
    return "\n\n".join("\n".join(part) for part in parts if part)


def summary_sentences(found: Predictions) -> list[str]:
    """Return the summary without its tables, as sentences."""
    lines = [*_errors(found), *_coverage(found), *_decisions(found)]
    return [*lines, *(line.removeprefix("- ") for line in _to_know(found))]


def score(value: float, metric: str) -> str:
    """Return a score as text: an accuracy with three decimals, a loss with four digits."""
    if pd.isna(value):
        return ""
    return f"{value:.3f}" if metric == "accuracy" else f"{value:#.4g}"


def _table(found: Predictions, kind: TargetKind) -> list[str]:
    """Return a header and one line per task and target that has a number."""
    rows = of_default(found, kind)
    rows = rows[has_number(rows)]
    if rows.empty:
        return []
    groups = rows["group"].nunique() > 1
    with_actual = kind is TargetKind.PREDICTION
    header = [*(["group"] if groups else []), "task", "target", "predicted", "90% interval"]
    lines = [[*header, "actual", "error"] if with_actual else header]
    for row in rows.to_dict("records"):
        metric = row["metric"]
        low, high = (score(row[f"{end}_90"], metric) for end in ("low", "high"))
        cells = [*([row["group"]] if groups else []), row["task"], row["target"]]
        cells += [score(row["predicted"], metric), f"[{low}, {high}]" if low and high else "none"]
        if with_actual:
            error = row["relative_error"]
            cells += [score(row["actual"], metric), "" if pd.isna(error) else f"{error:+.1%}"]
        lines.append(cells)
    metrics = ", ".join(sorted(rows["metric"].unique())).replace("_", " ")
    title = f"{_HEADERS[kind]} ({metrics} by {found.default}):"
    return [title, *_aligned(lines, texts=3 if groups else 2)]


def _aligned(lines: Sequence[Sequence[str]], texts: int) -> list[str]:
    """Return lines with columns of equal width; the first ``texts`` columns start left."""
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]
    return [
        "  ".join(
            str(cell).ljust(width) if i < texts else str(cell).rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _errors(found: Predictions) -> list[str]:
    errors = errors_by_method(found)
    if errors.empty:
        return []
    compared = errors[errors["compared"]].sort_values("mean", kind="stable")
    shown = ", ".join(f"{row.method} {row.mean:.1%}" for row in compared.itertuples())  # type: ignore[str-format]
    count = int(errors["common"].iloc[0])
    lines = [f"Mean error on the same {counted(count, 'score')}: {shown}."]
    lines += [
        f"{row.method} predicted only {row.predicted}, with a mean error of {row.mean:.1%}."  # type: ignore[str-format]
        for row in errors[~errors["compared"].astype(bool)].itertuples()
        if row.predicted
    ]
    return lines


def _coverage(found: Predictions) -> list[str]:
    rows = coverage(found)
    rows = rows[rows["method"] == found.default]
    if found.points.empty:  # predicted without the table
        return []
    if rows.empty or rows["within_90"].isna().all():
        return [
            "No backtest: too few runs of smaller compute. The intervals rest on the resampled "
            "runs alone."
        ]
    row = rows.iloc[0]
    shown = ", ".join(f"{level}%: {row[f'within_{level}']:.0%}" for level in (50, 80, 90))
    return [
        f"Backtests (fit smaller runs, predict larger ones): intervals held, of "
        f"{counted(int(row['measurements']), 'measurement')}: {shown}; median error "
        f"{row['error']:.1%}."
    ]


def _decisions(found: Predictions) -> list[str]:
    rows = found.decisions[found.decisions["method"] == found.default]
    if rows.empty:
        return []
    pairs, right = int(rows["pairs"].sum()), int(rows["right"].sum())
    return [f"The better of two recipes was called in {right} of {counted(pairs, 'pair')}."]


def _without_number(found: Predictions) -> list[str]:
    """Return one line for the tasks of a group that lack a number for the same reason."""
    rows = of_default(found)
    rows = rows[~has_number(rows)]
    if rows.empty:
        return []
    shared = [
        str(reason).replace(str(task), "<task>")
        for reason, task in zip(rows["reason"], rows["task"], strict=True)
    ]
    lines = ["No number:"]
    for (group, status, reason), part in rows.assign(shared=shared).groupby(
        ["group", "status", "shared"], sort=False, dropna=False
    ):
        tasks = part["task"].nunique()
        where = f"{group}, {_names(part['task'])}" if group else _names(part["task"])
        why = part["reason"].iloc[0] if tasks == 1 else reason
        lines.append(f"- {where} ({_names(part['target'])}): {status}: {why}")
    return lines


def _influence(found: Predictions) -> list[str]:
    rows = largest_changes(found)
    if rows.empty:
        return []
    lines = ["Leaving out one size changes the predictions by at most:"]
    for row in rows.to_dict("records"):
        where = f"{row['group']}: " if row["group"] else ""
        what = f"- {where}{row['left_out']} ({counted(int(row['runs']), 'run')}): "
        if pd.isna(row["change"]):
            lines.append(f"{what}no prediction is left")
        else:
            lines.append(f"{what}{row['change']:+.3f} ({row['task']}, {row['target']})")
    return lines


def _to_know(found: Predictions) -> list[str]:
    """Return what was left out, what is open, and the notes."""
    lines = []
    rows = of_default(found)
    reasons = rows[has_number(rows) & (rows["reason"].fillna("") != "")]
    lines += [
        f"{_names(part['target'])}: {reason}."
        for reason, part in reasons.groupby("reason", sort=False)
    ]
    if excluded := found.settings.get("exclude"):
        lines.append(f"Left out of everything: {_names(excluded)}.")
    if outliers := outlier_runs(found):
        named = [f"{run} ({counted(n, 'stage')})" for run, n in outliers.items()]
        lines.append(f"Runs far from the fitted laws: {_names(named)}. See stages.csv.")
    if len(stages := open_stages(found)):
        total = int((found.stages["method"] == found.default).sum())
        lines.append(
            f"{len(stages)} of {counted(total, 'stage')} have a parameter that the data leave open "
            f"(flatness above {OPEN}; {_parameters(stages)}): it rests on the prior."
        )
    lines += found.notes
    return [f"- {line}" for line in lines]


def _parameters(stages: pd.DataFrame) -> str:
    counts: Mapping[object, int] = stages["weakest"].value_counts().to_dict()
    return ", ".join(f"{name} in {count}" for name, count in list(counts.items())[:_NAMED])


def _names(names: object) -> str:
    """Return distinct names in one line, the first four of them."""
    distinct = list(dict.fromkeys(map(str, names)))  # type: ignore[call-overload]
    more = f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else ""
    return ", ".join(distinct[:_NAMED]) + more


def counted(count: int, noun: str) -> str:
    """Return a number with its noun: "1 run", "3 runs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
