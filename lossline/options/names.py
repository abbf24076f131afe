"""Names of every verb's options, known without importing the verb's modules.

    python -m lossline.options.names

writes names.json anew, after an option or a component was added, renamed or removed. A wrong
argument is answered from that file, at once; importing a verb takes several seconds.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")

Owners = Mapping[str, list[str]]
"""gin name of options or component -> names of its options."""


def owners_of(name: str, load: Callable[[], Any]) -> Owners:
    """Return the options of a verb from the file, or by loading a verb that is not in it.

    Args:
        name: the verb.
        load: function that imports the verb.
    """
    known: dict[str, Owners] = json.loads(FILE.read_text(encoding="utf-8"))
    function = load.func if isinstance(load, functools.partial) else load
    return known.get(f"{name}.{function.__name__}") or loaded_owners(name, load)


def loaded_owners(name: str, load: Callable[[], Any]) -> Owners:
    """Return the options of a verb from its classes."""
    verb = load()
    made = {verb.name or name: verb.options, **verb.components}
    return {owner: list(inspect.signature(made[owner]).parameters) for owner in made}


def all_owners() -> dict[str, Owners]:
    """Return what the file must hold."""
    found = {}
    for path in sorted(Path(__file__).parents[1].glob("*.py")):
        if "run_verb(" in path.read_text(encoding="utf-8"):
            verb = importlib.import_module(f"lossline.{path.stem}")
            for load in (item for key, item in vars(verb).items() if key.startswith("load")):
                found[f"{path.stem}.{load.__name__}"] = loaded_owners(path.stem, load)
    return found


def file_text(found: Mapping[str, Owners]) -> str:
    """Return the file's text: one line for each component, so that changes are easy to read."""
    verbs = []
    for key, owners in found.items():
        lines = [f"  {json.dumps(owner)}: {json.dumps(names)}" for owner, names in owners.items()]
        verbs.append(f" {json.dumps(key)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(verbs) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(file_text(all_owners()), encoding="utf-8")
