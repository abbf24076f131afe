"""Read gin files, once for many option trees, as in a grid of thousands of runs.

gin has no public way to save what files have bound; this module copies its dictionaries. Their
values are never changed in place.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import os
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lossline.errors import UserError
from lossline.gin_files.registration import take_components_of_imports

search_paths: list[str] = []
"""Folders of ``--gin_search_paths`` of this process."""

_IMPORT = re.compile(r"^\s*(?:import|from)\s", re.MULTILINE)
_INCLUDE = re.compile(r"""^\s*include\s+['"](.+?)['"]""", re.MULTILINE)


def found_file(path: str) -> Path | None:
    """Return where a gin file is: the path itself, or below one of ``search_paths``."""
    places = [Path(path), *(Path(folder) / path for folder in search_paths)]
    return next((place for place in places if place.is_file()), None)


def may_import(files: Sequence[str]) -> bool:
    """Return whether the files, or files that they include, may import components from modules.

    True also where a file is missing: gin then says which.
    """
    folders = _common_folders(files)
    seen: set[Path] = set()
    waiting = [found_file(path) for path in files]
    while waiting:
        path = waiting.pop()
        if path is None:
            return True
        if (real := path.resolve()) in seen:
            continue
        seen.add(real)
        text = real.read_text(encoding="utf-8", errors="replace")
        if _IMPORT.search(text):
            return True
        for name in _INCLUDE.findall(text):
            places = [Path(folder) / name for folder in (str(real.parent), *folders)]
            waiting.append(next((place for place in places if place.is_file()), None))
    return False


@dataclass
class ParsedFiles:
    """Bindings of gin files by the names of the files; valid while the files do not change."""

    known: dict[tuple[str, ...], tuple[dict, set]] = field(default_factory=dict)

    def has(self, files: Sequence[str]) -> bool:
        """Return whether these files were parsed before."""
        return tuple(files) in self.known

    def parse(self, files: Sequence[str], bindings: Sequence[str]) -> None:
        """Bind what the files and then the bindings say; gin's configuration must be empty.

        Raises:
            UserError: a file is not UTF-8 or includes itself, or a binding is not a line of gin.
            ValueError: and other errors of gin, for a file or a binding that it cannot read.
        """
        import gin
        from gin import config

        take_components_of_imports()
        key = tuple(files)
        if key in self.known:
            bound, imports = self.known[key]
            config._CONFIG.update(_copied(bound))
            config._IMPORTS.update(imports)
        else:
            logging.disable(logging.ERROR)  # gin logs every folder without the included file
            try:
                with _reading(_common_folders(files)):
                    gin.parse_config_files_and_bindings(
                        [str(found_file(path) or path) for path in files],
                        [],
                        finalize_config=False,
                    )
            finally:
                logging.disable(logging.NOTSET)
            self.known[key] = _copied(config._CONFIG), set(config._IMPORTS)
        with _reading(_common_folders(files)):
            for line in bindings:
                if not _bound_as_is(line):
                    _bind(line)


def _copied(bound: dict[Any, dict]) -> dict[Any, dict]:
    return {where: dict(parameters) for where, parameters in bound.items()}


def _bound_as_is(line: str) -> bool:
    """Bind a line that holds a plain value; return False for others, which gin must read."""
    from gin import config

    name, equals, text = line.partition(" = ")
    if not equals or "." not in name:
        return False
    try:
        config.bind_parameter(name, ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        return False
    return True


def _bind(line: str) -> None:
    """Let gin bind a line of the command line."""
    import gin

    try:
        gin.parse_config(line)
    except (SyntaxError, ValueError) as error:
        if isinstance(error, SyntaxError) or "malformed node" in str(error):
            raise UserError(
                f"{line!r} is not a line of gin. Write NAME = VALUE, and text in quotes."
            ) from error
        raise


def _common_folders(files: Sequence[str]) -> list[str]:
    """Return the folders in which ``include`` lines of every file look for files.

    They are the working folder, ``search_paths``, the folder of each gin file, and ``gin_configs``
    of the working folder and of the checkout.
    """
    folders = ["", *search_paths]
    folders += [str(path.resolve().parent) for path in map(found_file, files) if path]
    folders += ["gin_configs", str(Path(__file__).resolve().parents[2] / "gin_configs")]
    return list(dict.fromkeys(folders))


@contextlib.contextmanager
def _reading(folders: Sequence[str]) -> Iterator[None]:
    """Make gin look for an included file in the folder of the including file, then in ``folders``.

    gin then reads a path only as a file, and every file as UTF-8. Otherwise it also takes the
    path's folder for a Python package, and fails if the working folder contains a folder of that
    name: ``runs/quickstart.gin`` in a folder with ``runs/``.
    """
    from gin import config  # gin offers no public way to any of this

    opened: list[str] = []

    @contextlib.contextmanager
    def read(path: str) -> Iterator[TextIO]:
        real = os.path.realpath(path)
        if real in opened:
            chain = " → ".join(map(os.path.relpath, [*opened[opened.index(real) :], real]))
            raise UserError(f"{path} includes itself: {chain}. Remove one of these includes.")
        opened.append(real)
        outer = config._LOCATION_PREFIXES[:]
        config._LOCATION_PREFIXES[:] = [os.path.dirname(real), *folders]
        try:
            with _open_utf8(path) as file:
                yield file
        except tokenize.TokenError as error:
            raise UserError(
                f"{path}, line {error.args[1][0]}: a text or a bracket is not closed. Close it."
            ) from error
        finally:
            config._LOCATION_PREFIXES[:] = outer
            opened.pop()

    before = config._LOCATION_PREFIXES[:], config._FILE_READERS[:]
    config._LOCATION_PREFIXES[:], config._FILE_READERS[:] = folders, [(read, os.path.isfile)]
    try:
        yield
    finally:
        config._LOCATION_PREFIXES[:], config._FILE_READERS[:] = before


def _open_utf8(path: str) -> TextIO:
    """Open a text file, whatever the locale; raise UserError if it is not UTF-8."""
    try:
        Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{error.object[error.start]:02x} is not UTF-8. Save the "
            "file as UTF-8."
        ) from error
    return open(path, encoding="utf-8")
