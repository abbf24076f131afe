"""The tokens that are followed: windows of a validation store, drawn once for all checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lossline import vocabularies
from lossline.batches.plans import Batch, Windows
from lossline.errors import UserError
from lossline.places import local_path
from lossline.stores.prepare_all import vocabulary_spec
from lossline.stores.token_store import TokenStore
from lossline.token_curves.options import FollowOptions
from lossline.token_dynamics.results import TokenSample


@dataclass(frozen=True, kw_only=True)
class DrawnWindows:
    """Windows of a store, as a model reads them and as tokens.

    Attributes:
        batch: inputs, targets and segment ids, one row per window.
        sample: the targets of all rows, row by row.
    """

    batch: Batch
    sample: TokenSample


def draw_windows(store: TokenStore, options: FollowOptions, *, context_length: int) -> DrawnWindows:
    """Draw windows of the form of training, without replacement, each equally likely.

    The draw depends only on the contents of the store, the length of a window and the seed.

    Args:
        store: a validation store.
        options: ``tokens``, ``seed``, ``vocabulary`` and ``text_windows``.
        context_length: targets per window.

    Raises:
        UserError: the store has fewer tokens than a window, or the vocabulary is missing or is
            not that of the store.
    """
    if store.num_tokens < context_length:
        raise UserError(
            f"dynamics.store: {store.location} has {store.num_tokens} tokens, fewer than a window "
            f"of {context_length}. Prepare a larger validation set, or set "
            "dynamics.context_length."
        )
    windows = Windows(store, context_length=context_length, seed=options.seed)
    count = min(windows.count, -(-options.tokens // context_length))
    drawn = windows.order(np.arange(count, dtype=np.int64))
    chosen = np.sort(drawn)
    batch = windows.read(chosen)
    positions = (chosen[:, None] * context_length + np.arange(context_length)).ravel()
    sample = TokenSample(
        positions=positions,
        documents=np.searchsorted(store.offsets, positions, side="right") - 1,
        windows=np.repeat(chosen, context_length),
        token_ids=batch.targets.ravel(),
        pieces=_pieces(store, options),
        store=f"{store.manifest.name} {store.manifest.split}",
        shown=tuple(int(window) for window in drawn[: options.text_windows]),
    )
    return DrawnWindows(batch=batch, sample=sample)


def _pieces(store: TokenStore, options: FollowOptions) -> tuple[bytes, ...] | None:
    """Return the bytes of each id of the store's vocabulary; None if it is not known."""
    facts, named = store.manifest.vocabulary, options.vocabulary
    if not named and facts.kind != "bytes":
        return None
    if isinstance(named, str):
        named = named.replace("{tokenizer}", facts.name) or "bytes"
    root = local_path(options.data_root, "dynamics.data_root")
    vocabulary = vocabularies.load(vocabulary_spec(named, root))
    if vocabulary.hash != facts.hash:
        raise UserError(
            f"dynamics.vocabulary: {vocabulary.name} ({vocabulary.hash[:8]}) is not the vocabulary "
            f"of store {store.location}, {facts.name} ({facts.hash[:8]}). Name that one, or none."
        )
    return vocabulary.pieces
