"""Pages as arrays of ids, domains and sizes; their texts come when asked for, piece by piece."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar, overload

import numpy as np

from lossline.corpora import utf8
from lossline.corpora.deduplication import near_duplicates
from lossline.corpora.pools import Page
from lossline.errors import UserError
from lossline.stores.tokenization import Tokenizer, chunked
from lossline.vocabularies import Vocabulary, VocabularySpec

Value = TypeVar("Value")
Found = TypeVar("Found")
TOKENIZED = 1 << 18  # characters that are tokenized at once; at most this much is done in vain


class PageSet(Sequence[Page]):
    """Pages of a pool, in the order of the pool.

    Attributes:
        names: names of the domains, sorted.
        domain_of: int64 [pages]: position in ``names`` of each page's domain.
        sizes: int64 [pages]: UTF-8 bytes of each page.
        places: int64 [pages]: place of each page in the order of id, domain and text.
    """

    names: Sequence[str]
    domain_of: np.ndarray
    sizes: np.ndarray
    places: np.ndarray

    @abstractmethod
    def ids(self, positions: Iterable[int] | None = None) -> Sequence[str]:
        """Return the ids of all pages or of some; each is made when it is used."""

    @abstractmethod
    def texts(self, positions: Iterable[int]) -> Iterator[str]:
        """Yield the texts of some pages."""

    @abstractmethod
    def map(self, function: Callable[[Sequence[str]], Found], *, what: str) -> list[Found]:
        """Apply a function to the texts of consecutive pages, and return the results in order.

        Args:
            function: function of a module or a ``functools.partial`` of one. Its results for the
                pages together must not depend on where the pages are cut into pieces.
            what: what it does, for progress.
        """

    @abstractmethod
    def share(self, value: Value) -> Callable[[], Value]:
        """Return a function that returns a large value in any process, for ``map``."""

    @abstractmethod
    def subset(self, keep: np.ndarray) -> PageSet:
        """Return the pages where ``keep`` (bool [pages]) is true."""

    @abstractmethod
    def repeated(self, threshold: float, among: np.ndarray) -> np.ndarray:
        """Return which pages are near-duplicates of pages with smaller places: bool [pages].

        Args:
            threshold: share of repeated word 8-grams.
            among: bool [pages]: pages to compare; the others are no near-duplicates.
        """

    @abstractmethod
    def lengths(
        self,
        order: np.ndarray,
        budget: int,
        vocabulary: Vocabulary | VocabularySpec,
        processes: int,
    ) -> np.ndarray:
        """Return the tokens of pages in some order, up to the page that reaches the budget.

        Raises:
            UserError: the vocabulary changes the text of a page.
        """

    def by_domain(self) -> dict[str, np.ndarray]:
        """Return the positions of the pages of each domain that has some."""
        counts = np.bincount(self.domain_of, minlength=len(self.names))
        parts = np.split(np.argsort(self.domain_of, kind="stable"), np.cumsum(counts)[:-1])
        return {name: own for name, own in zip(self.names, parts, strict=True) if len(own)}

    def labels(self) -> np.ndarray:
        """Return the domain of each page, object [pages]."""
        return np.array([*self.names, None], object)[self.domain_of]

    @overload
    def __getitem__(self, index: int) -> Page: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Page]: ...
    def __getitem__(self, index: int | slice) -> Page | Sequence[Page]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = range(len(self))[index]
        (text,) = self.texts([position])
        domain = self.names[self.domain_of[position]]
        return Page(id=self.ids([position])[0], domain=domain, text=text)


class HeldPages(PageSet):
    """Pages in memory.

    Args:
        pages: the pages.
    """

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = pages
        names, domain_of = np.unique([page.domain for page in pages], return_inverse=True)
        self.names, self.domain_of = names.tolist(), domain_of.astype(np.int64)

    def __len__(self) -> int:
        return len(self.pages)

    @cached_property
    def sizes(self) -> np.ndarray:  # type: ignore[override]
        """See ``PageSet``."""
        return np.array([len(page.text.encode()) for page in self.pages], np.int64)

    @cached_property
    def places(self) -> np.ndarray:  # type: ignore[override]
        """See ``PageSet``."""
        pages = self.pages
        order = sorted(
            range(len(pages)), key=lambda i: (pages[i].id, pages[i].domain, pages[i].text)
        )
        places = np.empty(len(pages), np.int64)
        places[order] = np.arange(len(pages))
        return places

    def ids(self, positions: Iterable[int] | None = None) -> Sequence[str]:
        """See ``PageSet.ids``."""
        chosen = range(len(self.pages)) if positions is None else positions
        return [self.pages[i].id for i in chosen]

    def texts(self, positions: Iterable[int]) -> Iterator[str]:
        """See ``PageSet.texts``."""
        return (self.pages[i].text for i in positions)

    def map(self, function: Callable[[Sequence[str]], Found], *, what: str) -> list[Found]:
        """See ``PageSet.map``."""
        return [function([page.text for page in self.pages])]

    def share(self, value: Value) -> Callable[[], Value]:
        """See ``PageSet.share``."""
        return lambda: value

    def subset(self, keep: np.ndarray) -> HeldPages:
        """See ``PageSet.subset``."""
        return HeldPages([page for page, stays in zip(self.pages, keep, strict=True) if stays])

    def repeated(self, threshold: float, among: np.ndarray) -> np.ndarray:
        """See ``PageSet.repeated``."""
        own = np.flatnonzero(among)
        own = own[np.argsort(self.places[own])]
        found = np.zeros(len(self.pages), bool)
        found[own] = near_duplicates(list(self.texts(own.tolist())), threshold=threshold)
        return found

    def lengths(
        self,
        order: np.ndarray,
        budget: int,
        vocabulary: Vocabulary | VocabularySpec,
        processes: int,
    ) -> np.ndarray:
        """See ``PageSet.lengths``."""
        found: list[int] = []
        total = 0
        tokenizer = Tokenizer(vocabulary, processes=processes)
        for _, _, tokens in tokenizer.map(enumerate(chunked(self.texts(order), TOKENIZED))):
            for length in tokens.lengths.tolist():
                found.append(length)
                total += length
                if total >= budget:
                    return np.array(found, np.int64)
        return np.array(found, np.int64)


def as_set(pages: Sequence[Page]) -> PageSet:
    """Return pages as a set.

    Raises:
        UserError: there is no page, or a page contains a lone surrogate.
    """
    if not len(pages):
        raise UserError("selection: the pool has no pages to select from. Check the pool.")
    if isinstance(pages, PageSet):
        return pages
    for page in pages:
        utf8.require(page.text, f"page {page.id} of domain {page.domain}")
    return HeldPages(pages)


class LazyTexts(Sequence[str]):
    """The texts of some pages of a set, each read when it is used.

    Args:
        pages: the set.
        positions: positions of the pages.
    """

    def __init__(self, pages: PageSet, positions: Sequence[int]) -> None:
        self._pages, self._positions = pages, positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return list(self._pages.texts(self._positions[index]))
        return next(self._pages.texts([self._positions[index]]))
