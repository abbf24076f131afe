"""Gin files parsed once for many option trees, as in a grid of thousands of runs.

gin has no public way to save what files have bound; this module copies its dictionaries. Their
values are never changed in place.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


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
            ValueError: and other errors of gin, for a file or a binding that it cannot read.
        """
        import gin
        from gin import config

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
