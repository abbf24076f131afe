"""The pages of a pool that models are scored on, and the check that a token store contains them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lossline.corpora.pools import Pool
from lossline.corpora.sources import Subset
from lossline.errors import UserError
from lossline.stores.jobs import text_job
from lossline.stores.token_store import TokenStore

SPLIT = "scored"


@dataclass(frozen=True)
class PoolPages:
    """Domains and sizes of the P pages of ``pool.scored()``, in its order.

    Attributes:
        pool: the pool.
    """

    pool: Pool

    @cached_property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that have a scored page, in the order of the pool."""
        return tuple(dict.fromkeys(domain for domain, _ in self._pages))

    @cached_property
    def domain_of(self) -> np.ndarray:
        """Position in ``domains`` of each page's domain, int64 [P]."""
        place = {domain: number for number, domain in enumerate(self.domains)}
        return np.array([place[domain] for domain, _ in self._pages], np.int64)

    @cached_property
    def bytes(self) -> np.ndarray:
        """UTF-8 bytes of each page, int64 [P]."""
        return np.array([size for _, size in self._pages], np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the pool."""
        return self.pool.fingerprint()

    @cached_property
    def _pages(self) -> list[tuple[str, int]]:
        pages = [(page.domain, len(page.text.encode())) for page in self.pool.scored()]
        if not pages:
            raise UserError(
                f"pool {self.pool.name} has no page to score. Gather its domains with python -m "
                "lossline.gather, or give pool.files more pages."
            )
        return pages

    def require_in(self, store: TokenStore) -> None:
        """Check that document i of a token store is page i.

        Raises:
            UserError: number, size or text of the documents differ from the pages.
        """
        place, pool = store.location, self.pool.name
        fix = "Delete the store and prepare it again, or score with the pool that it was made of."
        pages, documents = len(self.bytes), store.num_documents
        if documents != pages:
            raise UserError(
                f"{place}: contains {documents} documents, but pool {pool} has {pages} pages to "
                f"score: the pool has changed since it was tokenized. {fix}"
            )
        other = np.flatnonzero(store.document_bytes != self.bytes)
        if len(other):
            first = int(other[0])
            raise UserError(
                f"{place}: document {first} has {store.document_bytes[first]} bytes, but page "
                f"{first} of pool {pool} ({self.domains[self.domain_of[first]]}) has "
                f"{self.bytes[first]}: the pool has changed since it was tokenized. {fix}"
            )
        job = text_job(self.pool, SPLIT, Subset(), store.manifest.vocabulary.hash)
        if store.manifest.job != job:
            raise UserError(
                f"{place}: was made of other pages than those that pool {pool} has now, or with a "
                f"limit on their number or size. {fix}"
            )
