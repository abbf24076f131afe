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

    Dataclasses become dictionaries with ``__class__``. Fields declared with
    ``field(metadata={"identity": False})`` (where outputs go, how often progress is shown) are
    left out; those declared ``"unless None"`` where they are None: an option that came later, whose
    None is what every experiment before it was.
    """
    if dataclasses.is_dataclass(options) and not isinstance(options, type):
        tree = {"__class__": type(options).__name__}
        for item in dataclasses.fields(options):
            value, kept = getattr(options, item.name), item.metadata.get("identity", True)
            if kept == "unless None":
                kept = value is not None
            if kept:
                tree[item.name] = identity(value)
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


def fingerprint(options: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of ``identity(options)``."""
    text = json.dumps(identity(options), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
