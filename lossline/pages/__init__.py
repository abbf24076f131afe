"""Rank the pages of a pool for a target, and cut the ranking to a budget of tokens."""

from lossline.pages.cut import Cut, Shortage, cut
from lossline.pages.task import PageMethod, Ranking, SelectionTask

__all__ = [
    "Cut",
    "PageMethod",
    "Ranking",
    "SelectionTask",
    "Shortage",
    "cut",
]
