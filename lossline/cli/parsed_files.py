"""Read gin files, once for many option trees, as in a grid of thousands of runs.

gin has no public way to save what files have bound; this module copies its dictionaries. Their
values are never changed in place.
"""

from __future__ import annotations

import ast
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lossline.errors import UserError


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
            UserError: a file is not UTF-8.
            ValueError: and other errors of gin, for a file or a binding that it cannot read.
        """
        import gin
        from gin import config

        _read_files_only()
        key = tuple(files)
        if key in self.known:
            bound, imports = self.known[key]
            config._CONFIG.update(_copied(bound))
            config._IMPORTS.update(imports)
        else:
            logging.disable(logging.ERROR)  # gin logs every folder without the included file
            try:
                gin.parse_config_files_and_bindings(list(files), [], finalize_config=False)
            finally:
                logging.disable(logging.NOTSET)
            self.known[key] = _copied(config._CONFIG), set(config._IMPORTS)
        for line in bindings:
            if not _bound_as_is(line):
                gin.parse_config(line)


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


def _read_files_only() -> None:
    """Make gin read an included path only as a file, and every file as UTF-8.

    Otherwise gin also takes the path's folder for a Python package, and fails if the working folder
    contains a folder of that name: ``runs/quickstart.gin`` in a folder with ``runs/``.
    """
    from gin import config

    config._FILE_READERS[:] = [(_open_utf8, os.path.isfile)]  # gin offers no public way


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
