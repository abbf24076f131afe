"""The language model around every family: token ids in, hidden states or logits out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.errors import UserError
from lossline.models.config import ModelConfig
from lossline.models.layers import (
    Rows,
    parameter,
    run_stack,
    stacked,
    truncated_normal,
)
from lossline.ops import segments
from lossline.ops.linear import linear
from lossline.sharding.rules import constrain


class LanguageModel(nnx.Module):
    """A causal language model. Build it with ``lossline.models.build``."""

    def __init__(self, config: ModelConfig, *, key: jax.Array) -> None:
        embedding_key, stack_key, unembedding_key, position_key = jax.random.split(key, 4)
        V, D = config.padded_vocab_size, config.width
        self.config = config
        self.embedding = parameter(
            truncated_normal(embedding_key, (V, D), config.std(D), config.param_dtype),
            "vocab",
            "embed",
        )
        if config.position_params():
            shape = (config.context_length, D)
            self.position_embedding = config.matrix(
                position_key, shape, "positions", "embed", fan_in=D
            )
        self.blocks = stacked(config.make_block, stack_key, config.blocks)
        self.final_norm = config.make_norm(D)
        if not config.tie_embeddings:
            self.unembed = config.matrix(unembedding_key, (D, V), "embed", "vocab")

    def __call__(
        self,
        tokens_BxL: jax.Array,
        segment_ids_BxL: jax.Array | None = None,
        positions_BxL: jax.Array | None = None,
    ) -> jax.Array:
        """Return next-token logits [B, L, vocab_size] in float32; arguments as in ``hidden``."""
        x_BxLxD = self.hidden(tokens_BxL, segment_ids_BxL, positions_BxL)
        return linear(x_BxLxD, self.unembedding()).astype(jnp.float32)

    def hidden(
        self,
        tokens_BxL: jax.Array,
        segment_ids_BxL: jax.Array | None = None,
        positions_BxL: jax.Array | None = None,
    ) -> jax.Array:
        """Return normed hidden states [B, L, D] in the activation dtype, ready for the unembedding.

        Args:
            tokens_BxL: int32 ids below ``vocab_size``.
            segment_ids_BxL: id of the document of each token, for rows of several documents. No
                layer lets information pass from one document to another.
            positions_BxL: positions to use; None: count from the beginning of each document.

        Raises:
            UserError: the row is longer than the learned positions.
        """
        config = self.config
        rows = self._rows(tokens_BxL.shape, segment_ids_BxL, positions_BxL)
        x_BxLxD = self._embedded(tokens_BxL, rows)
        x_BxLxD = run_stack(
            self.blocks,
            x_BxLxD,
            rows,
            scan=config.scan_layers,
            remat=config.remat,
            numbered=config.has_different_blocks,
        )
        return constrain(self.final_norm(x_BxLxD), "batch", "length", None)

    def continued(
        self, tokens_BxL: jax.Array, valid_BxL: jax.Array, positions_BxL: jax.Array, caches: Any
    ) -> tuple[jax.Array, Any]:
        """Return hidden states of the next tokens of texts that the caches remember.

        Args:
            tokens_BxL: the next tokens of each text.
            valid_BxL: False for padding, which only stands before the first token of a text.
            positions_BxL: position of each token in its text.
            caches: what ``lossline.models.caches`` keeps of the tokens before.

        Returns:
            Hidden states as ``hidden`` gives them, and the caches with these tokens.
        """
        rows = self._rows(tokens_BxL.shape, None, positions_BxL)
        graph, state = nnx.split(self.blocks)
        numbers = None
        if self.config.has_different_blocks:
            numbers = jnp.arange(jax.tree.leaves(state)[0].shape[0], dtype=jnp.int32)

        def apply(x_BxLxD: jax.Array, block: tuple[nnx.State, Any, Any]) -> tuple[jax.Array, Any]:
            layers: Any = nnx.merge(graph, block[0])
            return layers.continued(x_BxLxD, replace(rows, block=block[2]), valid_BxL, block[1])

        x_BxLxD = self._embedded(tokens_BxL, rows)
        x_BxLxD, caches = jax.lax.scan(apply, x_BxLxD, (state, caches, numbers))
        return self.final_norm(x_BxLxD), caches

    def _embedded(self, tokens_BxL: jax.Array, rows: Rows) -> jax.Array:
        """Return the embeddings that the first block reads, [B, L, D]."""
        config = self.config
        # Gather the table along the width before the lookup: the partitioner cannot turn a split of
        # the width into a split of the batch, and would replicate the result on every device.
        table_VxD = constrain(self.embedding[...], "vocab", None)
        x_BxLxD = table_VxD.at[tokens_BxL].get(mode="clip").astype(config.dtype)
        if config.embedding_factor is not None:
            x_BxLxD = x_BxLxD * jnp.asarray(config.embedding_factor, config.dtype)
        if config.position_params():
            x_BxLxD = x_BxLxD + self._positions(tokens_BxL.shape[1], rows)
        return constrain(x_BxLxD, "batch", "length", None)

    def unembedding(self, *, padded: bool = False) -> jax.Array:
        """Return the unembedding matrix [D, V] in the parameter dtype.

        Args:
            padded: keep the columns that ``vocab_multiple`` added. A sharded loss needs them, and
                then needs the true ``vocab_size`` as an argument.
        """
        w_DxV = self.embedding[...].T if self.config.tie_embeddings else self.unembed[...]
        # Gather the width here, once; otherwise every chunk of the loss would gather it again.
        w_DxV = constrain(w_DxV, None, "vocab")
        return w_DxV if padded else w_DxV[:, : self.config.vocab_size]

    def _positions(self, length: int, rows: Rows) -> jax.Array:
        """Return learned position embeddings, [B or 1, L, D], in the activation dtype."""
        config = self.config
        if length > config.context_length:
            raise UserError(
                f"a row has {length} tokens, but this {config.family} model has"
                f" {config.context_length} learned positions: use shorter rows, or set"
                f" {config.family}.context_length"
            )
        table = self.position_embedding[...].astype(config.dtype)
        return table[None, :length] if rows.positions_BxL is None else table[rows.positions_BxL]

    def _rows(
        self,
        shape: tuple[int, ...],
        segment_ids_BxL: jax.Array | None,
        positions_BxL: jax.Array | None,
    ) -> Rows:
        rows = Rows(positions_BxL=positions_BxL)
        if segment_ids_BxL is not None:
            if positions_BxL is None:
                positions_BxL = segments.positions(segment_ids_BxL)
            begins_BxL = segments.starts(segment_ids_BxL)
            rows = Rows(
                positions_BxL=positions_BxL,
                runs_BxL=segments.runs(segment_ids_BxL),
                keep_BxL=1.0 - begins_BxL.astype(jnp.float32),
            )
        config = self.config
        positions = jnp.arange(shape[1])[None] if rows.positions_BxL is None else rows.positions_BxL
        return replace(
            rows, rotary=config.rotary(positions), near_rotary=config.near_rotary(positions)
        )
