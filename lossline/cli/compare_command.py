"""Implementation of ``python -m lossline.compare``: read, compare, write a folder, print."""

from __future__ import annotations

import dataclasses
import functools
import time

import pandas as pd

from lossline.cli.table_inputs import (
    BadRows,
    as_paths,
    fingerprint_of,
    provenance,
    read_table,
    say_since,
)
from lossline.comparisons.compare import LevelComparison, compare_levels
from lossline.comparisons.options import CompareOptions
from lossline.comparisons.results import COMPARE_FOLDER, save_comparison, summary
from lossline.options.identity import not_identity
from lossline.places import to_path

# Packages whose code the results depend on.
_ROOMS = ("tables", "options", "matching", "comparisons")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareCommand(CompareOptions):
    """Options of ``lossline.compare``: those of ``CompareOptions``, and these.

    Attributes:
        table: loss tables, run directories or folders of run directories.
        out: folder for the results.
        replace: whether to replace an earlier comparison of other inputs at ``out``; other folders
            are never replaced.
        bad_rows: "exclude" (default): leave bad rows out, print one line for each kind, and use the
            rest. "refuse": stop if the table has any.
        report: whether to make the figure and report.html.
    """

    table: str | tuple[str, ...] = not_identity()
    out: str = not_identity()
    replace: bool = not_identity(False)
    bad_rows: BadRows = BadRows.EXCLUDE
    report: bool = True


def compare_to_folder(options: CompareCommand) -> LevelComparison | None:
    """Compare the levels of a table's factor, write the folder and print the summary.

    Returns:
        The comparison, or None if the folder is up to date.

    Raises:
        UserError: the table or an option is wrong, or ``out`` contains something else.
    """
    out = to_path(options.out, "compare.out")
    paths = as_paths(options.table)
    table, dropped = read_table(paths, options.bad_rows)
    fingerprint = fingerprint_of(table, options, _ROOMS)
    if COMPARE_FOLDER.is_up_to_date(out, fingerprint, replace=options.replace):
        print((out / "summary.txt").read_text(encoding="utf-8").rstrip())
        print(f"{out} is up to date")
        return None
    started = time.monotonic()
    with COMPARE_FOLDER.writing(out, fingerprint) as partial:
        say = functools.partial(say_since, started)
        found = compare_levels(table, _settings(options))
        if len(dropped):
            left_out = pd.concat([dropped[["what", "reason"]], found.left_out], ignore_index=True)
            found = dataclasses.replace(found, left_out=left_out)
        about = provenance("compare", paths, fingerprint)
        save_comparison(found, partial, about)
        text = summary(found)
        (partial / "summary.txt").write_text(text + "\n", encoding="utf-8")
        if options.report:
            from lossline.reporting.comparisons import write_comparison_report

            say("figure and report")
            write_comparison_report(found, partial, provenance=about, say=say)
    print(text)
    print(f"Results: {out / 'report.html' if options.report else out}", flush=True)
    return found


def _settings(options: CompareCommand) -> CompareOptions:
    """Return the options of the comparison alone."""
    names = [field.name for field in dataclasses.fields(CompareOptions)]
    return CompareOptions(**{name: getattr(options, name) for name in names})
