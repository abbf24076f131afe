"""Grid of runs on random sparse mixtures, to learn from models that saw different text.

The domains are dealt like cards: a shuffled deck of all domains is dealt to one run after the
other, and the next deck starts when it is used up. The numbers of runs that two domains are active
in therefore never differ by more than one, as they would if every run drew its domains on its own.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lossline.errors import UserError
from lossline.seeds import check_seed
from lossline.stores.sealed_json import FILE_NAME
from lossline.studies.grid import Point

PARTS = 100  # shares are hundredths, so that each run's batches repeat their pattern soon


@dataclass(frozen=True, kw_only=True)
class RandomMixtures:
    """Gin component ``@random_mixtures()``: runs on random sparse mixtures of token stores.

    Run k depends only on the seed, k, and the names of the domains that have a store; it does not
    depend on ``count`` or on the order of ``domains``. A domain without a store is left out, with
    one line that names it, because a package registry may have been out of reach. While none of
    the stores exists (before ``prepare``), all domains count.

    Attributes:
        stores: path of a domain's token store, with ``{domain}`` in place of the name.
        domains: names of the domains.
        count: number of runs.
        active: smallest and largest number of domains with a share above 0 in a run; each number
            in between is equally likely.
        concentration: concentration of the symmetric Dirichlet distribution of the shares; below 1
            one or two domains get most of a run, far above 1 all get about the same. Every active
            domain gets at least 1%.
        seed: seed of the design.
        factor: name of the factor; the loss table records each run in ``factor.<factor>``.
        prefix: start of the level names: ``mix-00``, ``mix-01``, ….

    Raises:
        UserError: a value is out of range, or ``stores`` has no ``{domain}``.
    """

    stores: str
    domains: Sequence[str]
    count: int
    active: tuple[int, int] = (2, 6)
    concentration: float = 1.0
    seed: int = 0
    factor: str = "mixture"
    prefix: str = "mix"

    def __post_init__(self) -> None:
        check_seed(self.seed, "random_mixtures.seed")
        low, high = self.active
        if "{domain}" not in self.stores:
            raise UserError(
                f"random_mixtures.stores = {self.stores!r}: no {{domain}} in it. Write the name's "
                'place, as in "data/stores/bpe2048/{domain}/train".'
            )
        if len(set(self.domains)) < len(self.domains):
            raise UserError("random_mixtures.domains: a name occurs twice. Give each name once.")
        if not 1 <= low <= high <= PARTS:
            raise UserError(
                f"random_mixtures.active = {self.active}: give the smallest and the largest number "
                f"of domains in a run, from 1 to {PARTS}."
            )
        if self.count < 1 or not self.concentration > 0:
            raise UserError(
                f"random_mixtures: count = {self.count} and concentration = {self.concentration} "
                "must be above 0."
            )

    def points(self) -> list[Point]:
        """Return the planned runs, in order.

        Raises:
            UserError: fewer domains have a store than a run may need.
        """
        names = self._available()
        places = {name: self.stores.replace("{domain}", name) for name in names}
        digits = max(2, len(str(self.count - 1)))
        points = []
        for number, hand in enumerate(self._hands(names)):
            shares = {**dict.fromkeys(names, 0.0), **self._shares(number, hand, names)}
            level = f"{self.prefix}-{number:0{digits}d}"
            points.append(
                Point(
                    levels=(level,),
                    bindings={
                        "train.store": "@mixture()",
                        "mixture.components": places,
                        "mixture.shares": shares,
                    },
                    factors={self.factor: level},
                )
            )
        return points

    def _available(self) -> list[str]:
        """Return the sorted names of the domains that have a store; all, if none has."""
        names = sorted(self.domains)
        there = [name for name in names if self._has_store(name)]
        if there and (missing := [name for name in names if name not in there]):
            _say_once(
                f"random_mixtures: {len(missing)} of {len(names)} domains have no store and are "
                f"left out: {', '.join(missing)}"
            )
        names = there or names
        if len(names) < self.active[1]:
            raise UserError(
                f"random_mixtures.active = {self.active}, but only {len(names)} domains have a "
                f"store ({', '.join(names) or 'none is named'}). Prepare more, or lower it."
            )
        return names

    def _has_store(self, name: str) -> bool:
        place = self.stores.replace("{domain}", name)
        return "://" in place or (Path(place) / FILE_NAME).is_file()

    def _hands(self, names: Sequence[str]) -> list[list[str]]:
        """Return the active domains of each run, dealt from shuffled decks of all domains."""
        hands: list[list[str]] = []
        deck: list[str] = []
        decks = 0
        for number in range(self.count):
            low, high = self.active
            size = int(self._random("size", number, names).integers(low, high + 1))
            hand: list[str] = []
            while len(hand) < size:
                # A domain that the run has already waits in the deck for the next run.
                card = next((name for name in deck if name not in hand), None)
                if card is None:
                    order = self._random("deck", decks, names).permutation(len(names))
                    deck += [names[place] for place in order]
                    decks += 1
                    continue
                deck.remove(card)
                hand.append(card)
            hands.append(sorted(hand))
        return hands

    def _shares(self, number: int, hand: Sequence[str], names: Sequence[str]) -> dict[str, float]:
        """Return shares that sum to 1 in hundredths, at least one hundredth each."""
        random = self._random("shares", number, names)
        drawn = random.dirichlet(np.full(len(hand), self.concentration))
        free = PARTS - len(hand)
        whole = np.floor(drawn * free).astype(int)
        largest_rests_first = np.argsort(whole - drawn * free, kind="stable")
        whole[largest_rests_first[: free - whole.sum()]] += 1
        return {name: (1 + int(part)) / PARTS for name, part in zip(hand, whole, strict=True)}

    def _random(self, purpose: str, number: int, names: Sequence[str]) -> np.random.Generator:
        """Return the generator of one purpose and number; it depends on the available names."""
        key = "\n".join([purpose, str(self.seed), str(number), *names])
        return np.random.default_rng(list(hashlib.sha256(key.encode()).digest()))


@functools.cache
def _say_once(text: str) -> None:
    """Print a line once per process: a study plans its runs twice, before and after ``prepare``."""
    print(text, file=sys.stderr, flush=True)
