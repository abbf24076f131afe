"""Training objective: mean negative log-probability of the targets, plus the z-loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from lossline.ops.cross_entropy import linear_cross_entropy

BatchArrays = Mapping[str, jax.Array]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Loss of a model on a batch.

    Attributes:
        vocab_size: size of the vocabulary; further columns of the unembedding are padding.
        z_loss: coefficient of logsumexp² (PaLM, arXiv:2204.02311, section 5). Not part of the
            reported loss.
        implementation: name of an implementation in ``lossline.ops.cross_entropy``.
    """

    vocab_size: int
    z_loss: float = 0.0
    implementation: str = "chunked"

    def __call__(
        self, model: Any, batch: BatchArrays, total_weight: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return the contribution of one batch or microbatch to the mean loss of the whole batch.

        Args:
            model: module with ``hidden`` and ``unembedding``.
            batch: "inputs" and "targets" int32 [B, L], "weights" float32 [B, L], optionally
                "segment_ids" int32 [B, L].
            total_weight: sum of the weights of the whole batch; ``batch`` may be only a part of it.

        Returns:
            (objective to differentiate, nats per target token): float32 scalars, both divided by
                ``total_weight``.
        """
        x_BxLxD = model.hidden(batch["inputs"], batch.get("segment_ids"))
        weights = batch["weights"] / total_weight
        result = linear_cross_entropy(
            x_BxLxD,
            model.unembedding(padded=True),
            batch["targets"],
            weights_T=weights,
            z_loss=self.z_loss,
            vocab_size=self.vocab_size,
            implementation=self.implementation,
        )
        return result.total, jnp.sum(jax.lax.stop_gradient(result.nats_T) * weights)
