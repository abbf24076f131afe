"""Selective objective: mean negative log-probability of the selected targets, plus the z-loss.

Source: Rho-1 (arXiv:2404.07965), equations 3 to 5. The gradient never flows through the selection.

The scores that rank tokens need the losses of all tokens first, which costs one more projection on
the vocabulary per step. On one device the backward pass of the projection then runs over only the
selected tokens, which saves as much at a share of 2/3.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from lossline.objectives.options import Scope, Score
from lossline.objectives.plain import BatchArrays, Split
from lossline.ops.cross_entropy import CrossEntropy, linear_cross_entropy
from lossline.ops.largest import select_largest


@dataclass(frozen=True, kw_only=True)
class SelectiveLoss:
    """Mean loss over the selected targets of a batch.

    Batches need "selected" bool [B, L] if the tokens were chosen over the corpus, and "reference"
    [B, L], the nats of the reference, for the excess loss.

    Attributes:
        vocab_size: size of the vocabulary; further columns of the unembedding are padding.
        share: share of the candidates to select.
        score: what ranks the tokens.
        scope: tokens that are ranked together; ignored if they were chosen over the corpus.
        z_loss: coefficient of logsumexp², on selected tokens.
        implementation: name of an implementation in ``lossline.ops.cross_entropy``.
        one_device: whether a single device computes the step.
    """

    vocab_size: int
    share: Fraction
    score: Score
    scope: Scope
    z_loss: float = 0.0
    implementation: str = "chunked"
    one_device: bool = False

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the values of ``metrics``.

        ``loss`` is over all targets. ``selection_threshold`` is the smallest selected score, the
        mean over rows or microbatches if these are ranked apart. ``mean_excess`` is over the
        selected tokens.
        """
        return (
            *("loss", "selected_tokens", "selected_share", "selected_loss", "unselected_loss"),
            *(["selection_threshold"] if self.score.needs_current_model else []),
            *(["mean_excess"] if self.score is Score.EXCESS_LOSS else []),
        )

    @property
    def num_sums(self) -> int:
        """Length of the vector that ``metrics`` needs."""
        return 7

    @property
    def ranks_whole_batch(self) -> bool:
        """Whether the losses of all microbatches must be known before the first gradient."""
        return self.score.needs_current_model and self.scope is Scope.BATCH

    def total(self, batch: BatchArrays, split: Split) -> jax.Array:
        """Return the number of tokens that a batch trains on, a float32 scalar of at least 1.

        Args:
            batch: as in ``__call__``, whole.
            split: function that splits an array [B, L] into microbatches [M, B / M, L].
        """
        candidates = self.candidates(batch)
        if not self.score.needs_current_model:
            count = jnp.sum(candidates & batch["selected"])
        elif self.scope is Scope.BATCH:
            count = self._count(jnp.sum(candidates))
        elif self.scope is Scope.MICROBATCH:
            count = jnp.sum(self._count(jnp.sum(split(candidates), axis=(1, 2))))
        else:
            count = jnp.sum(self._count(jnp.sum(candidates, axis=1)))
        return jnp.maximum(count, 1).astype(jnp.float32)

    def candidates(self, batch: BatchArrays) -> jax.Array:
        """Return which targets can be selected, bool [B, L]."""
        found = batch["weights"] > 0
        return found & jnp.isfinite(batch["reference"]) if "reference" in batch else found

    def nats(self, model: Any, batch: BatchArrays) -> jax.Array:
        """Return the nats of each target, float32 [B, L], without gradients."""
        x, w = (
            model.hidden(batch["inputs"], batch.get("segment_ids")),
            model.unembedding(padded=True),
        )
        return self._nats(x, w, batch["targets"])

    def choose(
        self, batch: BatchArrays, nats_BxL: jax.Array, *, over: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Select the tokens of a group that is ranked together, or of every row.

        Tokens without finite nats are not selected; the loss is then not finite either, which stops
        the training.

        Args:
            batch: as in ``__call__``.
            nats_BxL: nats of the current model, without gradients.
            over: as in ``__call__``.

        Returns:
            (selected, bool [B, L]; what ``metrics`` needs).
        """
        scores = nats_BxL
        if self.score is Score.EXCESS_LOSS:
            scores = scores - batch["reference"].astype(jnp.float32)
        # The count depends on the nats. Counted before them, it could be exchanged between devices
        # while they still exchange parts of the model (see Trainer.gradients).
        candidates = self.candidates(batch) & jnp.isfinite(nats_BxL)
        if self.scope is Scope.SEQUENCE:
            count = self._count(jnp.sum(candidates, axis=1))
            chosen = select_largest(scores, candidates, count, per_row=True)
            return chosen, self._sums(batch, nats_BxL, chosen, scores, over=None)
        valid = jnp.sum(candidates)
        valid = valid if over is None else lax.psum(valid, over)
        first = 0 if over is None else lax.axis_index(over) * scores.size
        chosen = select_largest(scores, candidates, self._count(valid), over=over, first=first)
        return chosen, self._sums(batch, nats_BxL, chosen, scores, over=over)

    def __call__(
        self, model: Any, batch: BatchArrays, total: jax.Array, *, over: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the contribution of one batch or microbatch to the mean loss of the whole batch.

        Args:
            model: module with ``hidden`` and ``unembedding``.
            batch: "inputs" and "targets" int32 [B, L], "weights" float32 [B, L], optionally
                "segment_ids" int32 [B, L], "reference" float [B, L], "selected" bool [B, L].
            total: number of tokens that the whole batch trains on (``total``).
            over: mapped mesh axis (``shard_map``) that the rows are split over. None: ``batch`` is
                a global array.

        Returns:
            (objective to differentiate, float32 scalar; what ``metrics`` needs, float32 [7]). Both
                are added over microbatches and devices.
        """
        x_BxLxD = model.hidden(batch["inputs"], batch.get("segment_ids"))
        w_DxV = model.unembedding(padded=True)
        targets = batch["targets"]
        if "selected" in batch:
            chosen = batch["selected"] & self.candidates(batch)
            result = self._cross_entropy(x_BxLxD, w_DxV, targets, chosen / total)
            nats = lax.stop_gradient(result.nats_T)
            return result.total, self._sums(batch, nats, chosen, None, over=over)
        nats = self._nats(x_BxLxD, w_DxV, targets)
        chosen, sums = self.choose(batch, nats, over=over)
        rows = self._most_selected(*targets.shape)
        if not self.one_device or rows == targets.size:
            return self._cross_entropy(x_BxLxD, w_DxV, targets, chosen / total).total, sums
        # The number of selected tokens has a static bound, so that only they are projected again.
        (index,) = jnp.nonzero(chosen.reshape(-1), size=rows, fill_value=0)
        kept = jnp.arange(rows) < jnp.sum(chosen)
        x_TxD = x_BxLxD.reshape(-1, x_BxLxD.shape[-1])[index]
        result = self._cross_entropy(x_TxD, w_DxV, targets.reshape(-1)[index], kept / total)
        return result.total, sums

    def selected(self, sums: jax.Array) -> jax.Array:
        """Return the number of selected tokens, a float32 scalar, from what ``metrics`` needs."""
        return sums[1]

    def metrics(self, sums: jax.Array) -> jax.Array:
        """Return the metrics of a step, float32, in the order of ``metric_names``.

        ``unselected_loss`` is NaN if every token is selected.
        """
        nats, selected, other_nats, others, threshold, groups, scores = sums
        tokens = jnp.maximum(selected + others, 1)
        values = {
            "loss": (nats + other_nats) / tokens,
            "selected_tokens": selected,
            "selected_share": selected / tokens,
            "selected_loss": nats / jnp.maximum(selected, 1),
            "unselected_loss": jnp.where(others > 0, other_nats / others, jnp.nan),
            "selection_threshold": threshold / groups,
            "mean_excess": scores / jnp.maximum(selected, 1),
        }
        return jnp.stack([values[name] for name in self.metric_names])

    def _count(self, candidates: jax.Array) -> jax.Array:
        """Return ⌊share · candidates⌋, computed exactly in int32."""
        p, q = self.share.numerator, self.share.denominator
        return candidates // q * p + candidates % q * p // q

    def _most_selected(self, rows: int, length: int) -> int:
        """Return the largest number of selected tokens of an array [rows, length]."""
        if self.scope is Scope.SEQUENCE:
            return rows * int(self.share * length)
        return int(self.share * rows * length)

    def _nats(self, x_BxLxD: jax.Array, w_DxV: jax.Array, targets_BxL: jax.Array) -> jax.Array:
        x, w = lax.stop_gradient((x_BxLxD, w_DxV))
        return self._cross_entropy(x, w, targets_BxL, None).nats_T

    def _cross_entropy(
        self, x: jax.Array, w_DxV: jax.Array, targets: jax.Array, weights: jax.Array | None
    ) -> CrossEntropy:
        return linear_cross_entropy(
            x,
            w_DxV,
            targets,
            weights_T=weights,
            z_loss=self.z_loss,
            vocab_size=self.vocab_size,
            implementation=self.implementation,
        )

    def _sums(
        self,
        batch: BatchArrays,
        nats_BxL: jax.Array,
        chosen: jax.Array,
        scores: jax.Array | None,
        *,
        over: str | None,
    ) -> jax.Array:
        """Return what ``metrics`` needs; every entry is a sum over tokens or over groups."""
        others = (batch["weights"] > 0) & ~chosen
        values = (
            jnp.sum(jnp.where(chosen, nats_BxL, 0)),
            jnp.sum(chosen),
            jnp.sum(jnp.where(others, nats_BxL, 0)),
            jnp.sum(others),
            *self._thresholds(chosen, scores, over),
            0 if scores is None else jnp.sum(jnp.where(chosen, scores, 0)),
        )
        return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])

    def _thresholds(
        self, chosen: jax.Array, scores: jax.Array | None, over: str | None
    ) -> tuple[jax.Array | int, jax.Array | int]:
        """Return the sum of the smallest selected score of each group, and the number of groups."""
        if scores is None:
            return 0, 0
        axes = 1 if self.scope is Scope.SEQUENCE else None
        least = jnp.min(jnp.where(chosen, scores, jnp.inf), axis=axes)
        if over is not None:  # every device of the axis reports the same group
            least = lax.pmin(least, over)
        groups = jnp.isfinite(least) / (1 if over is None else lax.psum(1, over))
        return jnp.sum(jnp.where(jnp.isfinite(least), least, 0) * groups), jnp.sum(groups)
