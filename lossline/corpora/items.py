"""Benchmark questions as text."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question as text; ``context + choices[gold]`` is the right answer read aloud."""

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int
