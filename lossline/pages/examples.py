"""Draw the training and held-out pages of a classifier, by page and by domain."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lossline.errors import UserError
from lossline.pages.draws import uniform

FEWEST = 10  # different pages that each class needs


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pages of one domain and one class.

    Attributes:
        name: name of the domain.
        included: class of its pages.
        mass: its share of its class, in any unit.
        ids: id of each page; copies are dropped.
        texts: text of each page.
    """

    name: str
    included: bool
    mass: float
    ids: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class Examples:
    """Pages that a classifier is trained and tested on.

    Attributes:
        groups: name of the group of each page.
        texts: text of each page.
        included: bool [pages]: class of each page.
        weights: float64 [pages]: weight in training; the two classes weigh the same, and a group
            weighs its mass.
        held_out: bool [pages]: pages that only test. All pages of one id are on one side.
    """

    groups: Sequence[str]
    texts: Sequence[str]
    included: np.ndarray
    weights: np.ndarray
    held_out: np.ndarray

    def side(self, held_out: bool) -> list[str]:
        """Return the texts of one side."""
        return [t for t, tests in zip(self.texts, self.held_out, strict=True) if tests == held_out]


def draw(groups: Sequence[Group], *, pages_per_class: int, share: float, seed: int) -> Examples:
    """Draw about ``pages_per_class`` pages of each class and hold out a share of them.

    A group gives pages in proportion to its mass, at least one; the weights make up for groups with
    fewer pages than that. The draw depends on the seed and the pages, not on their order.

    Args:
        groups: the groups of both classes.
        pages_per_class: pages to draw at most, up to one more per group.
        share: share of the pages of each class to hold out, at least one page.
        seed: seed of the draw and the split.

    Raises:
        UserError: a class has fewer than ``FEWEST`` different pages.
    """
    ids: list[str] = []
    names: list[str] = []
    texts: list[str] = []
    included: list[bool] = []
    weights: list[float] = []
    for label in (True, False):
        own = sorted((g for g in groups if g.included == label), key=lambda group: group.name)
        _require_pages(own, label)
        total = math.fsum(group.mass for group in own)
        for group in own:
            share_of_class = group.mass / total
            taken = _drawn(group, math.ceil(pages_per_class * share_of_class), seed)
            ids += [group.ids[i] for i in taken]
            texts += [group.texts[i] for i in taken]
            names += [group.name] * len(taken)
            included += [label] * len(taken)
            weights += [share_of_class / len(taken)] * len(taken)
    labels = np.array(included)
    return Examples(names, texts, labels, np.array(weights), split(ids, labels, share, seed))


def split(ids: Sequence[str], included: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return which pages are held out, bool [pages]: ``share`` of the ids of each class.

    An id that occurs in both classes counts for the first one and is on one side only.
    """
    first = {id: bool(label) for id, label in reversed(list(zip(ids, included, strict=True)))}
    place = dict(zip(first, uniform(first, seed=seed, purpose="held-out"), strict=True))
    held_out: set[str] = set()
    for label in (True, False):
        own = sorted((id for id in first if first[id] == label), key=lambda id: (place[id], id))
        held_out |= set(own[: math.ceil(share * len(own))])
    return np.array([id in held_out for id in ids], bool)


def _drawn(group: Group, count: int, seed: int) -> list[int]:
    """Return the positions of ``count`` pages of a group, or of all, in the order of the draw."""
    place = uniform(group.ids, seed=seed, purpose="training pages")
    order = np.argsort(place, kind="stable")
    # Copies of a page have its id, and equal ids have equal places.
    starts = np.flatnonzero(np.append(True, place[order][1:] != place[order][:-1])[: len(order)])
    taken: list[int] = []
    for same in _pieces(order, starts):
        if len(taken) >= count:
            break
        best: dict[str, int] = {}
        if len(same) == 1:
            taken.append(int(same[0]))
            continue
        for i in sorted(same.tolist(), key=lambda i: (group.ids[i], group.texts[i])):
            best.setdefault(group.ids[i], i)
        taken += best.values()
    return taken[:count]


def _pieces(order: np.ndarray, starts: np.ndarray) -> Iterator[np.ndarray]:
    stops = np.append(starts[1:], len(order))
    return (order[start:stop] for start, stop in zip(starts, stops, strict=True))


def _require_pages(groups: Sequence[Group], included: bool) -> None:
    different: set[str] = set()
    for id in itertools.chain.from_iterable(group.ids for group in groups):
        different.add(id)
        if len(different) >= FEWEST:
            return
    names = ", ".join(group.name for group in groups[:3]) + (", …" if len(groups) > 3 else "")
    raise UserError(
        f"page classifier: the {'included' if included else 'excluded'} class ({names}) has "
        f"{len(different)} different pages, and training needs {FEWEST}. Add pages, or include "
        "other domains."
    )
