"""Implementation of ``python -m lossline.fit``: read, fit, write a folder, print the verdict."""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from typing import Any

import pandas as pd

from lossline.attribution.results import Attribution, Verdict
from lossline.cli.table_inputs import (
    BadRows,
    as_paths,
    fingerprint_of,
    provenance,
    read_table,
    say_since,
)
from lossline.fits.files import FIT_FOLDER, save_results
from lossline.fits.fitting import TableFitOptions, fit_table
from lossline.fits.results import ComputeLawFit, TableFit
from lossline.lines.common_cases import Comparison, compare
from lossline.options.identity import not_identity
from lossline.places import to_path
from lossline.tables.schema import Unit

# Packages whose code the results depend on.
_ROOMS = ("tables", "options", "laws", "lines", "matching", "attribution", "fits")
# Parts in which reasons of one kind differ: numbers and quoted names.
_VARYING = re.compile(r"'[^']*'|[-+]?\d[\d.,]*(?:e[-+]?\d+)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitCommand(TableFitOptions):
    """Options of ``lossline.fit``: those of ``TableFitOptions``, and these.

    Attributes:
        table: loss tables, run directories or folders of run directories.
        out: folder for the results.
        replace: whether to replace an earlier fit of other inputs at ``out``; other folders are
            never replaced.
        bad_rows: "exclude" (default): leave bad rows out, print one line for each kind, and fit the
            rest. "refuse": stop if the table has any.
        report: whether to make figures and report.html.
        processes: processes that fit and draw; two take about 0.6 GB.
    """

    table: str | tuple[str, ...] = not_identity()
    out: str = not_identity()
    replace: bool = not_identity(False)
    bad_rows: BadRows = BadRows.EXCLUDE
    report: bool = True
    processes: int = not_identity(2)


def fit_to_folder(options: FitCommand) -> TableFit | None:
    """Fit the table, write the folder and print the verdict.

    Returns:
        The results, or None if the folder is up to date.

    Raises:
        UserError: the table or an option is wrong, or ``out`` contains something else.
    """
    out = to_path(options.out, "fit.out")
    paths = as_paths(options.table)
    table, dropped = read_table(paths, options.bad_rows)
    fingerprint = fit_fingerprint(table, options)
    if FIT_FOLDER.is_up_to_date(out, fingerprint, replace=options.replace):
        print((out / "verdict.txt").read_text(encoding="utf-8").rstrip())
        print(f"{out} is up to date")
        return None
    started = time.monotonic()
    # Open the folder before fitting, so that an unwritable path is reported at once.
    with FIT_FOLDER.writing(out, fingerprint) as partial:
        say = functools.partial(say_since, started)
        results = fit_table(table, options, say=say)
        if len(dropped):
            everything = pd.concat([dropped, results.excluded], ignore_index=True)
            results = dataclasses.replace(results, excluded=everything)
        results = dataclasses.replace(results, provenance=provenance("fit", paths, fingerprint))
        save_results(results, partial)
        text = verdict(results)
        (partial / "verdict.txt").write_text(text + "\n", encoding="utf-8")
        if options.report:
            from lossline.reporting import write_report

            say("figures and report")
            write_report(results, partial, processes=options.processes, say=say)
    print(text)
    print(f"Results: {out / 'report.html' if options.report else out}", flush=True)
    return results


def fit_fingerprint(table: pd.DataFrame, options: FitCommand) -> str:
    """Return the SHA-256 (hex) of the table, the options and the code that fits."""
    return fingerprint_of(table, options, _ROOMS)


def verdict(results: TableFit) -> str:
    """Return the verdict as text.

    First one sentence per factor that varies, then the counts of lines and measurements, the
    prediction errors of the held-out runs, and what was left out.
    """
    lines = [*_sentences(results.attribution), "", _counts(results)]
    lines += map(_held_out, compare(results.heldout))
    return "\n".join([*lines, *_left_out(results.excluded)])


def _left_out(excluded: pd.DataFrame, most: int = 20, named: int = 3) -> list[str]:
    """Return the lines about what was left out or is uncertain, one per reason.

    Reasons that differ only in numbers and quoted names are one line.
    """
    if excluded.empty:
        return []
    kinds: dict[str, list[Any]] = {}
    for row in excluded.itertuples():
        kinds.setdefault(_VARYING.sub("…", str(row.reason)), []).append(row)
    lines = []
    for rows in list(kinds.values())[:most]:
        what = "; ".join(str(row.what) for row in rows[:named])
        what += f"; … ({len(rows) - named} more)" if rows[named:] else ""
        count = sum(int(row.rows) for row in rows)
        like = ", and similar" if len({row.reason for row in rows}) > 1 else ""
        lines.append(
            f"- {what} ({count} {'row' if count == 1 else 'rows'}): {rows[0].reason}{like}"
        )
    if len(excluded) > len(lines):
        more = f"{len(kinds) - most} more reasons, and " if len(kinds) > most else ""
        lines.append(f"- {more}the full list of {len(excluded)}: excluded.json")
    return ["", "Left out or uncertain:", *lines]


def _sentences(attribution: Attribution) -> list[str]:
    if attribution.message:
        return [f"No attribution: {attribution.message}."]
    silent = (Verdict.CONSTANT, Verdict.MISSING)
    said = [
        f"- {factor.sentence}" for factor in attribution.factors if factor.verdict not in silent
    ]
    if not said:
        nothing = "Only the amount of training varies in these runs"
        return [f"{nothing}: nothing to attribute."]
    first = [text for text in (attribution.ranking, attribution.margins) if text]
    return [" ".join(first), *said, *(f"- {note}" for note in attribution.notes)]


def _counts(results: TableFit) -> str:
    used = int((results.table["status"] == "ok").sum())
    rows = f"{used} measurements used, {len(results.table) - used} left out."
    if not results.lines:
        laws = "\n".join(f"- {_law(law)}" for law in results.compute_laws[:5])
        return (
            f"No lines: a line needs two sets, at least one of validation; {rows}\n{laws}".rstrip()
        )
    drawn = [line for line in results.lines if line.drawable]
    text = f"{len(drawn)} of {len(results.lines)} lines determined by the data"
    if drawn:
        r2 = sorted(line.r2 for line in drawn)
        text += f", median R² {r2[len(r2) // 2]:.4f}"
    return f"{text}; {rows}"


def _law(law: ComputeLawFit) -> str:
    group = ", ".join(str(v) for v in law.group.values() if v is not None) or "all runs"
    if not law.parameters:
        return f"{group} on {law.eval_set}: no law: {law.message or law.status}"
    values = ", ".join(f"{name} = {value:.4g}" for name, value in law.parameters.items())
    interval = f", 90% of E [{law.E_low:.4g}, {law.E_high:.4g}]" if law.E_low == law.E_low else ""
    return f"{group} on {law.eval_set}: {law.equation}: {values}{interval}, R² {law.r2:.4f}"


def _held_out(found: Comparison) -> str:
    """Return the median errors of all methods on the same held-out losses."""
    medians = _medians(found.rows).sort_values(kind="stable")
    shown = ", ".join(f"{method} {_percent(error)}" for method, error in medians.items())
    same = f"{found.common} losses, the same for all"
    if found.missing:
        lacks = ", ".join(f"{count} by {method}" for method, count in found.missing.items())
        same = (
            f"the {found.common} of {found.cases} losses that all of these methods predicted; "
            f"not predicted: {lacks}"
        )
    text = (
        f"Largest runs predicted from the smaller ones, median error in {Unit(found.unit).words}: "
        f"{shown} ({same})."
    )
    return text + "".join(
        f" {name.capitalize()} predicted {found.answered[name]} of {found.cases}, too few to "
        f"compare{_pairwise(rows)}."
        for name, rows in found.apart.items()
    )


def _pairwise(rows: pd.DataFrame) -> str:
    """Return the medians of one method and of the line on the losses that both predicted."""
    shown = ", ".join(f"{method} {_percent(e)}" for method, e in _medians(rows).items())
    return f"; on those that the line predicted too: {shown}" if shown else ""


def _medians(rows: pd.DataFrame) -> pd.Series:
    return rows["relative_error"].abs().groupby(rows["method"]).median()


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
