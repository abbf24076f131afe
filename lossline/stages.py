"""How long stages tell that they go on: a line now and then, never one for each small step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["Say", "counted", "now_and_then", "silent"]

Say = Callable[[str], None]
Item = TypeVar("Item")

_EVERY = 5.0  # seconds


def silent(text: str) -> None:
    """Says nothing: what a library function does unless asked."""


def now_and_then(say: Say) -> Say:
    """`say`, of which only what comes some seconds after the last thing said gets through."""
    last = time.monotonic()

    def sparing(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _EVERY:
            say(text)
            last = time.monotonic()

    return sparing


def counted(items: Sequence[Item], say: Say, what: str) -> Iterator[Item]:
    """The items, one by one; now and then says how many are done."""
    sparing = now_and_then(say)
    for done, item in enumerate(items):
        if done:
            sparing(f"  {done} of {len(items)} {what}")
        yield item
