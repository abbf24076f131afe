"""Plain objective: mean negative log-probability of the targets, plus the z-loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lossline.ops.cross_entropy import linear_cross_entropy

BatchArrays = Mapping[str, jax.Array]
Split = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class PlainLoss:
    """Mean loss over all targets of a batch.

    Attributes:
        vocab_size: size of the vocabulary; further columns of the unembedding are padding.
        z_loss: coefficient of logsumexp² (PaLM, arXiv:2204.02311, section 5). Not part of the
            reported loss.
        implementation: name of an implementation in ``lossline.ops.cross_entropy``.
    """

    vocab_size: int
    z_loss: float = 0.0
    implementation: str = "chunked"

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the values of ``metrics``."""
        return ("loss",)

    @property
    def num_sums(self) -> int:
        """Length of the vector that ``metrics`` needs."""
        return 1

    @property
    def ranks_whole_batch(self) -> bool:
        """Whether the losses of all microbatches must be known before the first gradient."""
        return False

    def total(self, batch: BatchArrays, split: Split) -> jax.Array:
        """Return the number of targets of a batch, a float32 scalar.

        Args:
            batch: as in ``__call__``, whole.
            split: function that splits an array [B, L] into microbatches [M, B / M, L].
        """
        # The bound avoids 0 / 0 for a batch of only padding.
        return jnp.maximum(jnp.sum(batch["weights"]), 1e-9)

    def __call__(
        self, model: Any, batch: BatchArrays, total: jax.Array, *, over: str | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Return the contribution of one batch or microbatch to the mean loss of the whole batch.

        Args:
            model: module with ``hidden`` and ``unembedding``.
            batch: "inputs" and "targets" int32 [B, L], "weights" float32 [B, L], optionally
                "segment_ids" int32 [B, L].
            total: number of targets of the whole batch; ``batch`` may be only a part of it.
            over: mapped mesh axis (``shard_map``) that the rows are split over. None: ``batch`` is
                a global array.

        Returns:
            (objective to differentiate, float32 scalar; what ``metrics`` needs, float32 [1]). Both
                are added over microbatches and devices.
        """
        x_BxLxD = model.hidden(batch["inputs"], batch.get("segment_ids"))
        weights = batch["weights"] / total
        result = linear_cross_entropy(
            x_BxLxD,
            model.unembedding(padded=True),
            batch["targets"],
            weights_T=weights,
            z_loss=self.z_loss,
            vocab_size=self.vocab_size,
            implementation=self.implementation,
        )
        return result.total, jnp.sum(jax.lax.stop_gradient(result.nats_T) * weights)[None]

    def metrics(self, sums: jax.Array) -> jax.Array:
        """Return the metrics of a step, float32, in the order of ``metric_names``."""
        return sums
