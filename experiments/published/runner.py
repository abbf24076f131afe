"""What ``reproduce.py`` and ``predict.py`` share: run the sections of the files that are there."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd
from outputs import Outputs
from records import Comparison, Section

from lossline.errors import UserError

Sections = Callable[[Path], Iterable[Section]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What one file gave.

    Attributes:
        name: name of the file.
        sections: its sections, up to a mistake.
        mistake: why it was left out; empty if it was not.
        failure: traceback of a failure of the program; empty without one.
        seconds: time it took.
    """

    name: str
    sections: Sequence[Section]
    mistake: str
    failure: str
    seconds: float


def main(program: str, description: str | None, run: Callable[[Path, Path], list[str]]) -> int:
    """Run a command line with --data and --out; return its exit status.

    Args:
        program: name of the program.
        description: its help text.
        run: called with both folders; returns the files on which the program failed.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV files")
    options = parser.parse_args()
    try:
        broken = run(options.data, options.out)
    except UserError as mistake:
        print(f"{program}: error: {mistake}", file=sys.stderr)
        return 2
    if broken:
        print(f"{program}: error: not finished: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def present(sources: Iterable[str], data: Path) -> list[str]:
    """Return the names of the files, or patterns of names, that are in the folder.

    Raises:
        UserError: none is.
    """
    found = [name for name in sources if any(data.glob(name))]
    if not found:
        raise UserError(
            f"{data}: none of {', '.join(sources)} there. README.md names their sources."
        )
    return found


def opened(out: Path, program: str) -> Outputs:
    """Return the output folder, without the files of an earlier run, and say what was removed."""
    files = Outputs(out, program)
    for fate in ("removed", "kept"):
        if names := getattr(files, fate):
            why = "" if fate == "removed" else ", as they have changed since"
            print(f"{out}: {fate} from an earlier run{why}: {', '.join(sorted(names))}")
    return files


def found_in(
    sources: Mapping[str, Sections], names: Sequence[str], data: Path, processes: int = 1
) -> Iterator[Found]:
    """Yield what each file gives, in order.

    Args:
        sources: sections by name of the file.
        names: names of the files to read.
        data: their folder.
        processes: files are read by so many processes at once; 1 is this process.
    """
    work = [(name, sources[name], data) for name in names]
    if processes == 1:
        yield from map(_found, work)
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(_found, work)


def _found(work: tuple[str, Sections, Path]) -> Found:
    name, sections, data = work
    started = time.monotonic()
    found: list[Section] = []
    mistake = failure = ""
    try:
        for section in sections(data):
            found.append(section)  # those before a mistake are kept
    except UserError as error:
        mistake = str(error)
    except Exception:  # the other files can still be used
        failure = traceback.format_exc()
    seconds = time.monotonic() - started
    return Found(name=name, sections=found, mistake=mistake, failure=failure, seconds=seconds)


def report(found: Found, files: Outputs) -> list[dict[str, str]]:
    """Print what a file gave, write its tables, and return its comparisons as records."""
    records = []
    for section in found.sections:
        show(section)
        records += [{"section": section.title, **record(row)} for row in section.rows]
        for table, frame in section.tables.items():
            files.write(frame, f"{table}.csv")
    if found.mistake:
        print(f"\n{found.name}: left out: {found.mistake}")
    if found.failure:
        print(found.failure, file=sys.stderr, end="")
    print(f"\n[{found.name}: {found.seconds:.1f} s]", flush=True)
    return records


def record(row: Comparison) -> dict[str, str]:
    """Return a comparison with one entry per method."""
    return {
        "what": row.what,
        "published": row.published,
        "rerun": row.rerun,
        **row.methods,
        "ours": row.ours,
    }


def show(section: Section) -> None:
    """Print one section; re-run methods have a column each, if there is more than one."""
    print(f"\n== {section.title}")
    if section.rows:
        methods = list(dict.fromkeys(name for row in section.rows for name in row.methods))
        rerun = [] if methods and not any(row.rerun for row in section.rows) else ["rerun"]
        columns = ["what", "published", *rerun, *methods, "ours"]
        heads = {"what": "", "rerun": "procedure re-run"}
        lines = [[heads.get(name, name) for name in columns]]
        lines += [[record(row).get(name, "") for name in columns] for row in section.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)))
    for note in section.notes:
        print(note)


def finish(files: Outputs, results: pd.DataFrame, name: str) -> None:
    """Write the results and say what was written."""
    files.write(results, name)
    for old, moved in files.moved.items():
        print(f"\n{files.folder}/{old} existed and was not an earlier run's: renamed to {moved}")
    print(f"\nwritten to {files.folder}: {name} and the tables behind it")
