"""Read the folder that Gadre et al. publish (``exp_data/``) as the wide table of its models.

``models/NAME.json`` holds a run and its losses, ``evals/evaluation_NAME_heavy.json`` its
accuracies. Only the names of the files show which belong to one model:

    {"name": …, "dataset_name": "c4_original",
     "hyperparameters": {"params": …, "params_no_embed": …, "tokens": …, "global_bs": …, "lr": …,
                         "wd": …},
     "results": [{"loss": 3.04, "val_data": ["training/eval_data/c4_val/shard-{…}.tar"]}, …]}
    {"eval_metrics": {"icl": {"arc_easy": 0.40, …}}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from lossline.errors import UserError
from lossline.tables.json_text import objects

_EVALUATION = re.compile(r"evaluation_(?P<model>.+)_heavy")
# Column of the published table -> key of the hyperparameters.
_HYPERPARAMETERS = {
    "params": "params",
    "params_non_embedding": "params_no_embed",
    "tokens": "tokens",
    "batch_sequences": "global_bs",
    "lr": "lr",
    "weight_decay": "wd",
}


def read_folder(files: Sequence[Path]) -> tuple[pd.DataFrame, list[str]] | None:
    """Return the models of the JSON files, one row each, in the columns of the published table.

    Notes list missing and left-out data. Returns None if no file is a model of this layout.

    Raises:
        UserError: a model has two different values of one measurement.
    """
    models: dict[str, tuple[Path, dict[str, Any]]] = {}
    accuracies: dict[str, dict[str, Any]] = {}
    others = []
    for path in files:
        for label, tree in objects(path):
            if _is_model(tree):
                if path.stem in models:
                    raise UserError(
                        f"{label}: the model {path.stem!r} is in {models[path.stem][0]} too; "
                        "keep one of them"
                    )
                models[path.stem] = (path, tree)
            elif (found := _EVALUATION.fullmatch(path.stem)) and _is_evaluation(tree):
                known = accuracies.setdefault(found["model"], {})
                for task, value in tree["eval_metrics"]["icl"].items():
                    _add(known, f"accuracy/{task}", value, label)
            else:
                others.append(path.name)
    if not models:
        return None
    rows = [
        _facts(tree, name) | _losses(tree, str(path)) | accuracies.get(name, {})
        for name, (path, tree) in models.items()
    ]
    frame = pd.DataFrame(rows, index=[path.name for path, _ in models.values()], dtype=object)
    unmeasured = [name for name in models if name not in accuracies]
    unknown = [f"evaluation_{name}_heavy.json" for name in accuracies if name not in models]
    notes = [
        *_note(unmeasured, "no evaluation_NAME_heavy.json with its accuracies"),
        *_note(unknown, "no model of this name; left out"),
        *_note(others, "neither a model nor its evaluation; left out"),
    ]
    return frame, notes


def _is_model(tree: Mapping[str, Any]) -> bool:
    """Return whether a tree is a model of this layout."""
    facts, results = tree.get("hyperparameters"), tree.get("results")
    return (
        isinstance(facts, dict)
        and {"params", "tokens"} <= facts.keys()
        and "dataset_name" in tree
        and isinstance(results, list)
        and all(isinstance(result, dict) for result in results)
    )


def _is_evaluation(tree: Mapping[str, Any]) -> bool:
    """Return whether a tree holds accuracies of this layout."""
    found = tree.get("eval_metrics")
    return isinstance(found, dict) and isinstance(found.get("icl"), dict)


def _facts(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the facts of a model."""
    known = tree["hyperparameters"]
    return {
        "name": tree.get("name", name),
        "pretraining_data": tree["dataset_name"],
        **{column: known[key] for column, key in _HYPERPARAMETERS.items() if key in known},
    }


def _losses(tree: Mapping[str, Any], label: str) -> dict[str, Any]:
    """Return ``loss/<set>`` of a model; a set has the name of the folder of its shards."""
    losses: dict[str, Any] = {}
    for result in tree["results"]:
        sets = {PurePosixPath(shard).parent.name for shard in result.get("val_data", ())}
        if len(sets) != 1:
            raise UserError(
                f"{label}: a result has val_data in {len(sets)} folders; it must list the "
                "shards of one set"
            )
        _add(losses, f"loss/{sets.pop()}", result.get("loss"), label)
    return losses


def _add(known: dict[str, Any], column: str, value: Any, label: str) -> None:
    """Add a value to a row; an earlier value must be equal."""
    before = known.setdefault(column, value)
    if before != value and before == before:
        raise UserError(
            f"{label}: {column!r} is {value} here and {before} elsewhere; keep one of them"
        )


def _note(names: Sequence[str], what: str) -> list[str]:
    """Return a note on the first of the names, and how many more there are."""
    if not names:
        return []
    more = f" and {len(names) - 1} more" if names[1:] else ""
    return [f"{names[0]}{more}: {what}"]
