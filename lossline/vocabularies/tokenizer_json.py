"""What a ``tokenizer.json`` does to text beside cutting it, and how to leave that out.

A description is the parsed file. Steps that change nothing are kept as they stand, since the
vocabulary's hash is of the description.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.vocabularies.vocabulary import METASPACE

Step = dict[str, Any]

_TEXT_CHANGING = {
    "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Lowercase", "Strip", "StripAccents", "Prepend",
    "Precompiled", "BertNormalizer",
}  # fmt: skip
_SPACES = ({"String": " "}, {"Regex": " "})


def read(path: str) -> dict[str, Any]:
    """Parses a ``tokenizer.json``.

    Raises:
        UserError: not JSON, or a JSON file of something else.
    """
    try:
        description = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"vocabulary: {path} is not JSON ({error}); give a tokenizer.json"
        ) from error
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        raise UserError(
            f"vocabulary: {path} has no 'model'; give a tokenizer.json of the tokenizers library"
        )
    return description


def added_tokens(description: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokens that stand beside the model's, such as specials."""
    return _steps(description, "added_tokens")


def switch_off_sampling(description: dict[str, Any]) -> None:
    """Leaves out what draws the cut of a text anew each time: it is made for training a model.

    BPE dropout (Provilkov et al., ACL 2020) and Unigram's subword regularization (Kudo, ACL 2018).
    The description, and so the hash, is then that of the same file without them.
    """
    model = description["model"]
    if model.get("dropout"):
        model["dropout"] = None
    if model.get("alpha") is not None:
        for option in ("alpha", "nbest_size"):
            model.pop(option, None)


def drop_text_changes(description: dict[str, Any]) -> None:
    """Leaves out normal forms, lower-casing, and characters replaced, dropped or added."""
    description["normalizer"] = _exact_normalizer(description.get("normalizer"))
    if description.get("pre_tokenizer"):
        description["pre_tokenizer"] = _exact_pre_tokenizer(description["pre_tokenizer"])
    for added in added_tokens(description):
        for side in ("lstrip", "rstrip"):
            if added.get(side) and not added.get("special"):
                added[side] = False  # it would swallow the spaces beside the token


def replaced_texts(description: dict[str, Any]) -> list[str]:
    """The patterns that a normalizer replaces, as texts."""
    return _replaced_by(description.get("normalizer"))


def _replaced_by(step: Any) -> list[str]:
    if not isinstance(step, dict):
        return []
    pattern = step.get("pattern")
    own = list(pattern.values()) if isinstance(pattern, dict) else []
    return own + [text for item in _steps(step, "normalizers") for text in _replaced_by(item)]


def _steps(tree: Step, key: str) -> list[Step]:
    """The objects of a list; another value is left to the tokenizers library to refuse."""
    items = tree.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _exact_normalizer(step: Step | None) -> Step | None:
    if not isinstance(step, dict):
        return step
    if step.get("type") in _TEXT_CHANGING:
        return None
    if step.get("type") == "Sequence" and isinstance(step.get("normalizers"), list):
        kept = [_exact_normalizer(item) for item in step["normalizers"]]
        return {"type": "Sequence", "normalizers": [item for item in kept if item is not None]}
    if step.get("type") == "Replace":
        return _exact_replace(step)
    return step


def _exact_replace(step: Step) -> Step | None:
    """Writes each space as a metaspace, where XLM-R writes one for a run; replaces nothing else."""
    if step.get("content") != METASPACE:
        return None
    return step if step.get("pattern") in _SPACES else {**step, "pattern": _SPACES[0]}


def _exact_pre_tokenizer(step: Step) -> Step:
    if not isinstance(step, dict):
        return step
    kind = step.get("type")
    if kind == "Sequence" and isinstance(step.get("pretokenizers"), list):
        return {**step, "pretokenizers": [_exact_pre_tokenizer(s) for s in step["pretokenizers"]]}
    if kind == "Metaspace" and step.get("prepend_scheme") != "never":
        kept = {key: value for key, value in step.items() if key != "add_prefix_space"}
        return {**kept, "prepend_scheme": "never"}
    if kind == "ByteLevel" and step.get("add_prefix_space"):
        return {**step, "add_prefix_space": False}
    if kind in ("Split", "Punctuation") and step.get("behavior") == "Removed":
        return {**step, "behavior": "Isolated"}
    return step
