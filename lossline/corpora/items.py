"""Benchmark questions as text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question as text; ``context + choices[gold]`` is the context with its correct answer.

    Attributes:
        id: unique within the benchmark.
        context: text before each choice.
        choices: text of each choice, with the separating space at its start.
        gold: index of the correct choice.
    """

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int
