"""Options of selective language modeling (Rho-1, arXiv:2404.07965): ``train.objective``."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from lossline.errors import UserError
from lossline.stores.token_scores import ReferenceScore, TokenScores

_DECIMALS = 4  # with more, the count of selected tokens could exceed int32 on the device


class Score(enum.Enum):
    """What ranks the tokens.

    The first group needs the loss of the current model, so it selects in every step. The second
    group does not: its tokens are chosen once over the corpus.
    """

    EXCESS_LOSS = "excess_loss"  # current minus reference nats, largest first (equation 3)
    CURRENT_LOSS = "current_loss"  # current nats, largest first

    REFERENCE_LOSS = "reference_loss"  # reference nats, smallest first
    REFERENCE_ENTROPY = "reference_entropy"  # entropy of the reference, smallest first (equation 8)
    INTERSECTION = "intersection"  # tokens in the same first part of both rankings above
    RANDOM = "random"  # pseudo-random, by the seed of the data order

    @property
    def needs_current_model(self) -> bool:
        """Whether every step ranks its own tokens."""
        return self in (Score.EXCESS_LOSS, Score.CURRENT_LOSS)

    @property
    def quantities(self) -> tuple[ReferenceScore, ...]:
        """Token scores that are read."""
        return _QUANTITIES.get(self, ())

    @property
    def words(self) -> str:
        """Name in a sentence."""
        return self.value.replace("_", " ")


_QUANTITIES = {
    Score.EXCESS_LOSS: (ReferenceScore.NATS,),
    Score.REFERENCE_LOSS: (ReferenceScore.NATS,),
    Score.REFERENCE_ENTROPY: (ReferenceScore.ENTROPY,),
    Score.INTERSECTION: (ReferenceScore.NATS, ReferenceScore.ENTROPY),
}


class Scope(enum.Enum):
    """Tokens that are ranked together.

    BATCH is the paper's definition, exact over all devices and microbatches. With several
    microbatches it needs a forward pass of all of them before the first backward pass. The other
    two are approximations that do not.
    """

    BATCH = "batch"
    MICROBATCH = "microbatch"
    SEQUENCE = "sequence"


def scope_identity(scope: Scope | None) -> str | None:
    """Return the identity of ``selective.scope``: None and the batch select the same tokens."""
    return None if scope in (None, Scope.BATCH) else scope.value


def scores_identity(scores: str | Mapping[str, str] | None) -> str | dict[str, str] | None:
    """Return the identity of ``selective.scores``: fingerprints of contents, not places.

    Raises:
        NoStore: token scores do not exist.
    """
    if scores is None:
        return None
    if isinstance(scores, str):
        return TokenScores.open(scores).fingerprint
    return {name: TokenScores.open(scores[name]).fingerprint for name in sorted(scores)}


@dataclass(frozen=True, kw_only=True)
class Selective:
    """Gin component: train on a share of the target tokens, ``train.objective = @selective()``.

    The loss is the sum of the nats of the selected tokens, divided by their number (Rho-1, equation
    4); the z-loss counts the selected tokens too. All tokens stay in the input. Candidates are all
    targets with a finite reference score, ends of documents included, so a share of 1 equals plain
    training.

    Attributes:
        share: share of the candidates to select, in (0, 1], at most four decimals. It counts as its
            decimal notation: 0.29 of 100 tokens are 29. The paper uses 0.6 for 1.1B and 0.7 for 7B
            parameters.
        score: what ranks the tokens. Intersection selects the tokens that are in the first part of
            the rankings by loss and by entropy; both parts have the same size, chosen so that
            ``share`` of the tokens is in both.
        scope: tokens that are ranked together. None: the batch for "excess_loss" and
            "current_loss"; the other scores rank the whole corpus and accept only None.
        scores: folder of the token scores of the training store (``lossline.score --tokens``); for
            a mixture one for each component, by name. None for "current_loss" and "random".

    Raises:
        UserError: an option is out of range, or does not fit the score.
    """

    share: float
    score: Score = Score.EXCESS_LOSS
    scope: Scope | None = field(default=None, metadata={"identity": scope_identity})
    scores: str | Mapping[str, str] | None = field(
        default=None, metadata={"identity": scores_identity}
    )

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(
                f"selective.share = {self.share}: must be above 0 and at most 1, such as 0.6"
            )
        if 10**_DECIMALS % self.fraction.denominator:
            raise UserError(
                f"selective.share = {self.share}: has more than {_DECIMALS} decimals. Round it, "
                f"such as {max(round(self.share, _DECIMALS), 10**-_DECIMALS)}."
            )
        if self.scope is not None and not self.score.needs_current_model:
            raise UserError(
                f"selective.scope = {self.scope.value!r}: the score {self.score.value!r} selects "
                "once over the corpus. Remove the scope, or use 'excess_loss' or 'current_loss'."
            )
        if self.scores is not None and not self.score.quantities:
            raise UserError(
                f"selective.scores = {self.scores!r}: the score {self.score.value!r} reads no "
                "token scores. Remove it."
            )
        if not self.scores and self.score.quantities:
            raise UserError(
                f"selective.scores is not set, but the score {self.score.value!r} needs it. Write "
                "token scores with python -m lossline.score --tokens and give their folder."
            )

    @property
    def fraction(self) -> Fraction:
        """The share as an exact fraction of its decimal notation."""
        return Fraction(str(float(self.share)))

    @property
    def selects_in(self) -> str:
        """Name of the tokens that are ranked together: a scope, or "corpus"."""
        if not self.score.needs_current_model:
            return "corpus"
        return (self.scope or Scope.BATCH).value
