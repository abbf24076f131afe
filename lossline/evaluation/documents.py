"""Documents of a token store as texts to score: their windows, and the bytes that these cover.

This file says which tokens of running text are scored. What is summed over them is up to the
caller: ``DocumentLoss`` sums over a set, ``lossline.score`` over the pages of each domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from lossline.evaluation.definitions import Sums
from lossline.evaluation.packing import PackedTexts, RowLayout
from lossline.evaluation.windows import Window, WindowRule, document_windows

if TYPE_CHECKING:
    from lossline.stores.task_store import TaskStore
    from lossline.stores.token_store import TokenStore


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Shape of the batches: ``batch_size`` rows of one context each, in ``groups``."""

    batch_size: int
    groups: int = 1
    rows: RowLayout = RowLayout.PACKED


class Documents:
    """The documents of a token store that contain a token, cut into windows.

    Args:
        store: token store with D such documents.
        rule: how documents become windows.
        count: use only the first ``count`` documents of the store. None: all.

    Attributes:
        index: number of each document in the store, int64 [D].
        scored_tokens: tokens of each document that are scored, int64 [D].
        computed_tokens: tokens of each document's windows, int64 [D]; repeated context counts.
        covered_bytes: UTF-8 bytes that the scored tokens cover, int64 [D].
        truncated: whether a part of the document is left out, bool [D].
    """

    def __init__(self, store: TokenStore, *, rule: WindowRule, count: int | None = None) -> None:
        self._store, self._rule = store, rule
        number = min(store.num_documents, count or store.num_documents)
        used = [(i, tokens) for i, tokens in enumerate(_texts(store, number)) if len(tokens)]
        self._texts = [tokens for _, tokens in used]
        self._windows = [document_windows(len(tokens), rule) for tokens in self._texts]
        self.index = np.array([i for i, _ in used], np.int64)
        self.scored_tokens = np.array([ws[-1].stop for ws in self._windows], np.int64)
        self.computed_tokens = np.array(
            [sum(w.stop - w.start for w in ws) for ws in self._windows], np.int64
        )
        whole = np.array([len(tokens) for tokens in self._texts], np.int64)
        self.truncated = self.scored_tokens < whole
        self.covered_bytes = np.array(
            [
                _covered_bytes(store, i, tokens, int(scored))
                for (i, tokens), scored in zip(used, self.scored_tokens, strict=True)
            ],
            np.int64,
        )

    def __len__(self) -> int:
        return len(self._texts)

    def packed(self, layout: Layout, part: slice = slice(None)) -> PackedTexts:
        """Return a part of the documents, packed into rows."""
        return packed(self._texts[part], self._windows[part], self._store, self._rule, layout)

    def sums(self, nats: np.ndarray, which: np.ndarray | slice = slice(None)) -> Sums:
        """Return sums over documents.

        Args:
            nats: nats of each chosen document, float64.
            which: the chosen documents, a slice, mask or list of positions.
        """
        scored = self.scored_tokens[which]
        return Sums(
            nats=float(nats.sum()),
            target_tokens=int(scored.sum()),
            target_bytes=int(self.covered_bytes[which].sum()),
            documents=len(nats),
            truncated=int(self.truncated[which].sum()),
            document_losses=float((nats / scored).sum()),
        )


def packed(
    texts: Sequence[np.ndarray],
    windows: Sequence[Sequence[Window]],
    store: TokenStore | TaskStore,
    rule: WindowRule,
    layout: Layout,
) -> PackedTexts:
    """Pack the windows of texts into rows of one context each.

    Args:
        texts: token ids of each text.
        windows: windows of each text.
        store: the store that the texts are from; its end-of-document id opens every text.
        rule: rule of the windows.
        layout: shape of the batches.
    """
    return PackedTexts(
        texts,
        windows,
        opening_id=store.manifest.vocabulary.eos_id,
        row_length=rule.context,
        batch_size=layout.batch_size,
        groups=layout.groups,
        layout=layout.rows,
    )


def _texts(store: TokenStore, count: int) -> list[np.ndarray]:
    """Return the tokens of the first documents, each without its final end-of-document id."""
    offsets = store.offsets[: count + 1]
    tokens = store.read(0, int(offsets[-1])) if count else np.zeros(0, np.int32)
    return [tokens[a : b - 1] for a, b in pairwise(offsets)]


def _covered_bytes(store: TokenStore, index: int, tokens: np.ndarray, scored: int) -> int:
    """Return the UTF-8 bytes of a document that its first ``scored`` tokens cover.

    For a whole document this is the store's own count, which does not depend on the vocabulary. For
    a part it is the sum of the bytes of the tokens, but never more than the document has: the first
    token of a SentencePiece vocabulary may include a space that is not in the text.
    """
    whole = int(store.document_bytes[index])
    if scored == len(tokens):
        return whole
    return min(whole, int(store.token_bytes[tokens[:scored]].astype(np.int64).sum()))
