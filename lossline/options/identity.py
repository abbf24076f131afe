"""Identity of options: the values that define an experiment, as a JSON tree and as its hash."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def identity(options: Any) -> Any:
    """The JSON-able tree that makes two option trees the same experiment.

    Dataclasses become dictionaries with ``__class__``. A field's ``metadata["identity"]`` says how
    the field enters:

    - True (default): by its value;
    - False: not at all (output paths, mesh, logging);
    - "unless None": by its value, left out where it is None (an option added later, whose None is
      what every earlier experiment was);
    - a function: by what it returns for the value (a path enters by the fingerprint of its
      contents).

    Raises:
        TypeError: an option of a type without an identity.
        UserError: raised by a field's function, such as a store that does not exist.
    """
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        tree = {"__class__": type(options).__name__}
        for item in dataclasses.fields(options):
            value, rule = option_value(options, item), item.metadata.get("identity", True)
            if rule is False or (rule == "unless None" and value is None):
                continue
            tree[item.name] = identity(rule(value) if callable(rule) else value)
        return tree
    if isinstance(options, enum.Enum):
        return options.value
    if isinstance(options, Mapping):
        return {str(key): identity(value) for key, value in options.items()}
    if isinstance(options, (list, tuple)):
        return [identity(value) for value in options]
    if isinstance(options, Path):
        return str(options)
    if options is None or isinstance(options, (bool, int, float, str)):
        return options
    raise TypeError(f"an option of type {type(options).__name__} has no identity: {options!r}")


def option_value(options: Any, item: dataclasses.Field[Any]) -> Any:
    """The value of a field; a whole number given for a float is that float, as gin makes it."""
    value = getattr(options, item.name)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and item.type in ("float", "float | None", float) else value


def fingerprint(options: Any) -> str:
    """SHA-256 (hex) of ``identity(options)``."""
    return tree_hash(identity(options))


def tree_hash(tree: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of an identity."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
