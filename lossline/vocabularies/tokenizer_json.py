"""Remove the steps of a ``tokenizer.json`` that change text.

"Description" means the parsed file. Steps that do not change text stay unmodified, because the
hash of the vocabulary is computed from the description.
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
    """Parse a ``tokenizer.json`` and return its description.

    Raises:
        UserError: the file is not JSON, or has no ``model``.
    """
    try:
        description = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"vocabulary: {path} is not JSON ({error}). Give a tokenizer.json."
        ) from error
    if not isinstance(description, dict) or not isinstance(description.get("model"), dict):
        raise UserError(
            f"vocabulary: {path} has no 'model'. Give a tokenizer.json of the tokenizers library."
        )
    return description


def added_tokens(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens: those outside the model's vocabulary, such as special tokens."""
    return _steps(description, "added_tokens")


def switch_off_sampling(description: dict[str, Any]) -> None:
    """Remove random tokenization from a description, in place.

    Removes BPE dropout (Provilkov et al., ACL 2020) and Unigram subword regularization (Kudo,
    ACL 2018). The description then equals that of the same file without these options, so both
    files have the same hash.
    """
    model = description["model"]
    if model.get("dropout"):
        model["dropout"] = None
    if model.get("alpha") is not None:
        for option in ("alpha", "nbest_size"):
            model.pop(option, None)


def drop_text_changes(description: dict[str, Any]) -> None:
    """Remove every step that changes text from a description, in place.

    Removes Unicode normal forms, lower-casing, and steps that replace, remove or add characters.
    """
    description["normalizer"] = _exact_normalizer(description.get("normalizer"))
    if description.get("pre_tokenizer"):
        description["pre_tokenizer"] = _exact_pre_tokenizer(description["pre_tokenizer"])
    for added in added_tokens(description):
        for side in ("lstrip", "rstrip"):
            if added.get(side) and not added.get("special"):
                added[side] = False  # strip options would remove the spaces around the token


def replaced_texts(description: dict[str, Any]) -> list[str]:
    """Return the patterns of all ``Replace`` steps of the normalizer, for round-trip checks."""
    return _replaced_by(description.get("normalizer"))


def _replaced_by(step: Any) -> list[str]:
    if not isinstance(step, dict):
        return []
    pattern = step.get("pattern")
    own = list(pattern.values()) if isinstance(pattern, dict) else []
    return own + [text for item in _steps(step, "normalizers") for text in _replaced_by(item)]


def _steps(tree: Step, key: str) -> list[Step]:
    """Return the objects of the list ``tree[key]``; [] if the value is not a list.

    The tokenizers library reports wrong values later.
    """
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
    """Keep a replacement only if it writes spaces as metaspaces.

    XLM-R writes one metaspace for several spaces; the returned step writes one for each space.
    """
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
