"""What batches contain for a selective objective: reference scores, or the tokens chosen before.

Scores that need no current model choose once over the corpus. The choice is kept as one bit per
token; batches contain only these bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lossline.batches.permutation import Permutation
from lossline.errors import UserError
from lossline.objectives.corpus_choice import choose
from lossline.objectives.options import Score, Selective
from lossline.stores.token_scores import ReferenceScore, TokenScores
from lossline.stores.token_store import TokenStore


@dataclass(frozen=True)
class ReferenceNats:
    """Column "reference": the nats of the reference, float16."""

    scores: TokenScores
    field: str = "reference"

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return the nats of ``length`` tokens from each start, float16 [R, length]."""
        nats = self.scores.read(ReferenceScore.NATS.value, starts, length)
        return nats.astype(np.float16)  # exact: the scores are stored as float16


@dataclass(frozen=True)
class ChosenTokens:
    """Column "selected": tokens that were chosen over the corpus, one bit per token."""

    bits: np.ndarray  # uint8 [⌈tokens / 8⌉], as numpy.packbits
    field: str = "selected"

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return whether each of ``length`` tokens from each start is chosen, bool [R, length]."""
        positions = starts[:, None] + np.arange(length)
        return (self.bits[positions >> 3] >> (7 - (positions & 7))) & 1 == 1


@dataclass(frozen=True)
class RandomTokens:
    """Column "selected": the first ``count`` positions of a pseudo-random permutation."""

    permutation: Permutation
    count: int
    field: str = "selected"

    def read(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Return whether each of ``length`` tokens from each start is chosen, bool [R, length]."""
        return self.permutation(starts[:, None] + np.arange(length)) < self.count


Column = ReferenceNats | ChosenTokens | RandomTokens


def open_scores(
    options: Selective,
    stores: Mapping[str, TokenStore],
    *,
    mixture: bool,
    excluded: Sequence[str] = (),
    context_length: int,
    documents: str,
) -> list[TokenScores]:
    """Open the token scores of each store and check that they fit.

    Args:
        options: options of the objective.
        stores: component name -> store; a single store has any name.
        mixture: whether the stores are components of a mixture.
        excluded: components of the mixture with a share of 0; their scores are not read.
        context_length: targets per window of the training.
        documents: document rule of the training.

    Returns:
        The scores in the order of ``stores``; empty if the objective reads none.

    Raises:
        UserError: scores are missing or damaged, or belong to another store, vocabulary, length or
            rule, a component has none, or a name is no component.
    """
    if options.scores is None:
        return []
    named = options.scores
    if isinstance(named, str):
        if mixture:
            raise UserError(
                f"selective.scores = {named!r}: train.store is a mixture of {', '.join(stores)}. "
                "Give one folder for each component, as a dictionary."
            )
        named = dict.fromkeys(stores, named)
    elif not mixture:
        raise UserError(
            "selective.scores is a dictionary, but train.store is a single store. Give one folder."
        )
    if missing := [name for name in stores if name not in named]:
        raise UserError(
            f"selective.scores: no token scores for the component {missing[0]!r} of train.store. "
            f"Add its folder (given: {', '.join(named) or 'none'})."
        )
    if unknown := [name for name in named if name not in (*stores, *excluded)]:
        raise UserError(
            f"selective.scores: {unknown[0]!r} is no component of train.store "
            f"({', '.join((*stores, *excluded))}). Correct the name or remove it."
        )
    found = []
    for name, store in stores.items():
        scores = TokenScores.open(named[name])
        scores.require(
            store,
            context_length=context_length,
            documents=documents,
            quantities=[quantity.value for quantity in options.score.quantities],
        )
        found.append(scores)
    return found


def token_columns(
    options: Selective,
    stores: Sequence[TokenStore],
    scores: Sequence[TokenScores],
    *,
    weights: Sequence[int],
    context_length: int,
    seed: int,
) -> list[Column]:
    """Return the column of each store that the objective reads; none for the current loss.

    Args:
        options: options of the objective.
        stores: the stores of the training.
        scores: their token scores (``open_scores``).
        weights: whole-number share of the training rows of each store.
        context_length: targets per window.
        seed: seed of the data order, used for random tokens.
    """
    if options.score is Score.CURRENT_LOSS:
        return []
    if options.score is Score.EXCESS_LOSS:
        return [ReferenceNats(item) for item in scores]
    if options.score is Score.RANDOM:
        return [_random(options, store, context_length, seed) for store in stores]
    chosen = choose(options.fraction, options.score.quantities, scores, weights)
    return [ChosenTokens(bits) for bits in chosen]


def _random(options: Selective, store: TokenStore, context_length: int, seed: int) -> RandomTokens:
    tokens = store.num_tokens // context_length * context_length
    key = (store.manifest.fingerprint, seed, "random tokens")
    return RandomTokens(Permutation(tokens, *key), int(options.fraction * tokens))
