"""Read objects from .json and .jsonl files. Errors name the file and the line or row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lossline.errors import UserError


def objects(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects of a file, each after its name for messages.

    A .jsonl file has one object per line, a .json file one object or a list of objects.

    Raises:
        UserError: the file is missing or not JSON, an object has a key twice, or an item is not an
            object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give an existing table") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; save it again with this encoding") from error
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
                f"{label}: holds {json.dumps(tree)[:40]} instead of an object {{…}}; a table in "
                "JSON is an object or a list of objects"
            )
    return trees


def _parsed(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _object(pairs, where))
    except json.JSONDecodeError as error:
        hint = " For one object per line, name it .jsonl." if error.msg == "Extra data" else ""
        raise UserError(f"{where}: not valid JSON: {error}; is the file complete?{hint}") from error
    except (ValueError, RecursionError) as error:  # too many digits, or too deep nesting
        raise UserError(f"{where}: cannot be read as JSON: {error}") from error


def _object(pairs: Sequence[tuple[str, Any]], where: str) -> dict[str, Any]:
    """Return an object's pairs as a dictionary; each key must be unique."""
    tree = dict(pairs)
    if len(tree) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where}: the key {twice!r} exists twice in one object; keep one")
    return tree
