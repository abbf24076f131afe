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
    """Return the JSON-able tree of the options that define the experiment.

    Two option trees with equal identities are the same experiment. Dataclasses become dictionaries
    with ``__class__``. A field's ``metadata["identity"]`` defines how the field is included:

    - True (default): its value.
    - False: not included (output paths, mesh, logging).
    - "unless None": its value, but left out if it is None. For options added later: None means what
      earlier experiments did.
    - a function: the result of the function for the value. For example, a path is included as the
      fingerprint of its contents.

    An object whose class has a property ``identity`` is included as the value of that property.

    Raises:
        TypeError: an option has a type without an identity.
        UserError: a field's function raised it, for example because a store does not exist.
    """
    if isinstance(getattr(type(options), "identity", None), property):
        return identity(options.identity)
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


def not_identity(default: Any = dataclasses.MISSING) -> Any:
    """Return the field of an option that is no part of the identity, such as an output path."""
    return dataclasses.field(default=default, metadata={"identity": False})


def option_value(options: Any, item: dataclasses.Field[Any]) -> Any:
    """Return the value of a field; an int given for a float becomes a float, as in gin."""
    value = getattr(options, item.name)
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and item.type in ("float", "float | None", float) else value


def fingerprint(options: Any) -> str:
    """Return the SHA-256 (hex) of ``identity(options)``."""
    return tree_hash(identity(options))


def tree_hash(tree: Any) -> str:
    """Return the SHA-256 (hex) of the canonical JSON of an identity."""
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
