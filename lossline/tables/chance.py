"""Accuracy of guessing on well-known benchmarks of multiple choice: 1 / number of answers."""

from __future__ import annotations

__all__ = ["chance_level"]

# By the beginning of the name, letters and digits only.
_ANSWERS = {
    "arc": 4, "boolq": 2, "commonsenseqa": 5, "copa": 2, "csqa": 5, "hellaswag": 4, "mmlu": 4,
    "openbookqa": 4, "piqa": 2, "race": 4, "sciq": 4, "siqa": 3, "socialiqa": 3, "winogrande": 2,
}  # fmt: skip


def chance_level(eval_set: str) -> float | None:
    """Chance accuracy by the name of the set, e.g. ``arc_easy`` or ``ARC-Easy``; None where it is
    not known."""
    bare = "".join(letter for letter in eval_set.lower() if letter.isalnum())
    for name, answers in _ANSWERS.items():
        if bare.startswith(name):
            return 1 / answers
    return None
