"""Objects out of .json and .jsonl files; an error names the file and the line or row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossline.errors import UserError

__all__ = ["objects"]


def objects(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a .jsonl file (one a line) or a .json file (one, or a list of them), each
    after its name for messages.

    Raises `UserError` for a missing file, what is not JSON, a key that an object has twice, and
    anything but objects.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name an existing table") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not text in UTF-8; save it anew with this encoding") from error
    if path.suffix.lower() == ".jsonl":
        lines = enumerate(text.split("\n"), 1)
        trees = [(f"{path}, line {n}", _parsed(line, f"{path}, line {n}"))
                 for n, line in lines if line.strip()]  # fmt: skip
    else:
        tree = _parsed(text, str(path))
        trees = [(str(path), tree)]
        if isinstance(tree, list):
            trees = [(f"{path}, row {n}", item) for n, item in enumerate(tree, 1)]
    for label, tree in trees:
        if not isinstance(tree, dict):
            raise UserError(
                f"{label}: holds {json.dumps(tree)[:40]} where an object {{…}} belongs; a table in "
                "JSON is an object or a list of objects"
            )
    return trees


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except json.JSONDecodeError as error:
        hint = "; one object a line? name it .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{where}: is not JSON: {error}; is the file whole?{hint}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, nesting
        raise UserError(f"{where}: cannot be read as JSON: {error}") from error


def _object(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where}: the key {twice!r} is there twice in one object; keep one")
    return tree
