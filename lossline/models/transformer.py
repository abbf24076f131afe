"""Decoder layers of attention and MLP. The families built of them set the options.

Llama uses them with RMSNorm, rotary positions and SwiGLU (``models.llama``); GPT with LayerNorm,
learned positions and GELU (``models.gpt``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.errors import UserError
from lossline.models.caches import KeyValueCache
from lossline.models.config import FlopCounts, ModelConfig
from lossline.models.layers import (
    RMSNorm,
    Rows,
    like,
    product,
    rotary_tables,
    rotate,
)
from lossline.models.mlps import GATED_MLPS, MLPS, make_mlp
from lossline.ops.attention import attention
from lossline.ops.linear import linear, linear_many

POSITIONS = ("rotary", "learned")
QK_NORMS = ("none", "head", "width")
BIASES = (False, True, "qkv")
POST_NORMS = (False, True, "both")
ROPE_SCALINGS = (None, "linear")
EMBEDDING_SCALES = (None, "sqrt_width")
_LATER = {"identity": "unless None", "written": "unless None"}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """Options of attention and MLP layers.

    Attributes:
        heads: query heads; must divide the width unless ``head_width`` is given.
        head_width: channels of a head, independent of the width (Qwen 3, Mistral NeMo); None: width
            / heads.
        kv_heads: key/value heads; must divide the query heads. None: as many as query heads.
        mlp_width: hidden width of the MLP.
        mlp: "swiglu" or "geglu_tanh" (gated by silu, or by gelu in the approximation of GPT-2 as in
            Gemma; three matrices), "gelu" (exact) or "gelu_tanh" (the approximation in GPT-2).
        biases: True: add a bias to every matrix except the unembedding; "qkv": only to queries,
            keys and values (Qwen 2).
        parallel: attention and MLP both read the input of the layer (GPT-NeoX). False: the MLP
            reads the output of attention.
        post_norm: True: norm the outputs of attention and MLP instead of their inputs (OLMo 2);
            "both": norm inputs and outputs (Gemma 3).
        norm_offset: number that is added to the learned scale of every norm, which begins at 1 -
            norm_offset (Gemma: 1); None: 0.
        embedding_scale: "sqrt_width": multiply token embeddings by sqrt(width), rounded to the
            dtype of activations (Gemma); None: use them as they are.
        qk_norm: norm of queries and keys before the rotation. "none"; "head": over each head, with
            one scale for all heads; "width": over all heads together (OLMo, OpenLM).
        score_width: number whose square root divides the scores of attention (Gemma's
            query_pre_attn_scalar); None: the channels of a head.
        positions: "rotary" or "learned".
        rope_theta: base of the rotary frequencies.
        rope_fraction: share of the channels of each head that rotate (GPT-NeoX: 0.25).
        rope_scaling: factor by which Llama 3 divides low frequencies for long contexts; 1: no
            scaling.
        rope_scaling_kind: "linear": the factor divides all frequencies (Gemma 3); None: as in Llama
            3.
        rope_low, rope_high: limits of Llama 3's scaling. Wavelengths above rope_original / rope_low
            are scaled, those below rope_original / rope_high are not; between the limits the factor
            changes smoothly.
        rope_original: context length before scaling.
        unrotated_every: n: every n-th attention layer does not rotate queries and keys, so it has
            no positions (SmolLM 3: 4); None: all rotate.
        window: number of positions that a query attends to: its own and those before (Mistral);
            None: all.
        full_every: n: with a window, every n-th attention layer attends to all positions (OLMo 3:
            4); None: none does.
        window_theta: with full_every, base of the rotary frequencies of the layers with a window,
            which are not scaled (Gemma 3); None: they rotate like the others.
        attention_implementation: one of ``ops.attention.IMPLEMENTATIONS``, or "auto".
    """

    heads: int
    head_width: int | None = field(default=None, metadata={"identity": "unless None"})
    kv_heads: int | None = None
    mlp_width: int
    mlp: str = "swiglu"
    biases: bool | str = False
    parallel: bool = False
    post_norm: bool | str = False
    norm_offset: float | None = field(default=None, metadata=_LATER)
    embedding_scale: str | None = field(default=None, metadata=_LATER)
    qk_norm: str = "none"
    score_width: int | None = field(default=None, metadata=_LATER)
    positions: str = "rotary"
    rope_theta: float = 1e4
    rope_fraction: float = 1.0
    rope_scaling: float = 1.0
    rope_scaling_kind: str | None = field(default=None, metadata=_LATER)
    rope_low: float = 1.0
    rope_high: float = 4.0
    rope_original: int = 8192
    unrotated_every: int | None = field(default=None, metadata=_LATER)
    window: int | None = field(default=None, metadata=_LATER)
    full_every: int | None = field(default=None, metadata=_LATER)
    window_theta: float | None = field(default=None, metadata=_LATER)
    attention_implementation: str = "auto"

    family: ClassVar[str] = "transformer"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("heads")
        self.require_positive("mlp_width")
        if self.head_width is None:
            self.require_divides("heads", "width", self._turns)
        else:
            self.require_positive("head_width")
        if self.kv_heads is not None:
            self.require_positive("kv_heads")
            self.require_divides("kv_heads", "heads", lambda _, heads: self._fits(heads))
        self.require_choice("mlp", MLPS)
        self.require_choice("qk_norm", QK_NORMS)
        self.require_choice("positions", POSITIONS)
        if self.biases not in BIASES:
            raise UserError(f"{self.family}.biases is {self.biases!r}: choose False, True or 'qkv'")
        self._require_norms()
        self._require_layers()
        if self.embedding_scale not in EMBEDDING_SCALES:
            raise UserError(
                f"{self.family}.embedding_scale is {self.embedding_scale!r}: choose 'sqrt_width' or"
                f" None"
            )
        if self.score_width is not None:
            self.require_positive("score_width")
        self._require_rotation()

    def _require_norms(self) -> None:
        """Check the options of norms."""
        if self.post_norm not in POST_NORMS:
            raise UserError(
                f"{self.family}.post_norm is {self.post_norm!r}: choose False, True or 'both'"
            )
        if self.parallel and self.post_norm:
            raise UserError(
                f"{self.family}.parallel and {self.family}.post_norm cannot both be set: parallel"
                f" layers norm their input. Set one of them to False"
            )
        if self.norm_offset is None:
            return
        if not math.isfinite(self.norm_offset):
            raise UserError(f"{self.family}.norm_offset is {self.norm_offset}: it must be finite")
        if self.norm != "rms" or not self.norm_scale:
            raise UserError(
                f"{self.family}.norm_offset = {self.norm_offset} needs {self.family}.norm = 'rms'"
                f" and {self.family}.norm_scale = True: set both, or norm_offset to None"
            )

    def _require_finite(self, name: str) -> None:
        """Raise a UserError unless the named option is positive and finite."""
        value = getattr(self, name)
        if not 0 < value < math.inf:
            raise UserError(f"{self.family}.{name} is {value}: it must be positive and finite")

    def _require_layers(self) -> None:
        """Check the options that only some layers have."""
        if self.window is not None:
            self.require_positive("window")
        for name in ("unrotated_every", "full_every"):
            every = getattr(self, name)
            if every is not None and every < 2:
                raise UserError(f"{self.family}.{name} is {every}: it must be at least 2, or None")
        if self.full_every is not None and self.window is None:
            raise UserError(
                f"{self.family}.full_every = {self.full_every} needs {self.family}.window: without"
                f" a window all layers attend to all positions"
            )
        if self.window_theta is not None and self.full_every is None:
            raise UserError(
                f"{self.family}.window_theta = {self.window_theta} needs {self.family}.full_every:"
                f" where all layers are alike, set rope_theta"
            )
        for name in ("unrotated_every", "window_theta"):
            if getattr(self, name) is not None and self.positions != "rotary":
                raise UserError(
                    f"{self.family}.{name} = {getattr(self, name)} needs"
                    f" {self.family}.positions = 'rotary', not {self.positions!r}"
                )

    def _require_rotation(self) -> None:
        if self.positions != "rotary":
            return
        if not self._turns(self.heads, self.width):
            by_width = f"width {self.width}, heads {self.heads}"
            source = by_width if self.head_width is None else f"head_width {self.head_width}"
            raise UserError(
                f"{self.family}: rotary positions rotate pairs of channels, but {self.rotary_dim}"
                f" of the {self.head_dim} channels of a head would rotate ({source}, rope_fraction"
                f" {self.rope_fraction}); change these so that an even, positive number rotates"
            )
        for name in ("rope_theta", "rope_scaling", "window_theta"):
            if getattr(self, name) is not None:
                self._require_finite(name)
        if self.rope_scaling_kind not in ROPE_SCALINGS:
            raise UserError(
                f"{self.family}.rope_scaling_kind is {self.rope_scaling_kind!r}: choose 'linear' or"
                f" None"
            )
        if self.rope_scaling_kind is not None and self.rope_scaling == 1.0:
            raise UserError(
                f"{self.family}.rope_scaling_kind = {self.rope_scaling_kind!r} needs"
                f" {self.family}.rope_scaling: the factor 1 scales nothing"
            )
        if not 0 < self.rope_low < self.rope_high:
            raise UserError(
                f"{self.family}.rope_low = {self.rope_low} and rope_high = {self.rope_high}: the"
                f" first must be positive and below the second"
            )
        self.require_positive("rope_original")

    def _fits(self, heads: int) -> bool:
        """Return whether the width and the positions allow this number of heads."""
        divides = self.head_width is not None or self.width % heads == 0
        return divides and self._turns(heads, self.width)

    def _turns(self, heads: int, width: int) -> bool:
        """Return whether this number of heads at this width fits the configured positions.

        Rotary positions need an even, positive number of rotated channels.
        """
        head_dim = self._head_dim(heads, width)
        turning = self._rotary_dim(head_dim)
        return self.positions != "rotary" or (turning % 2 == 0 and 0 < turning <= head_dim)

    def _head_dim(self, heads: int, width: int) -> int:
        return width // heads if self.head_width is None else self.head_width

    def _rotary_dim(self, head_dim: int) -> int:
        return int(head_dim * self.rope_fraction)

    @property
    def has_different_blocks(self) -> bool:
        """Whether blocks differ in more than their parameters, so that each needs its number."""
        return self.unrotated_every is not None or self.full_every is not None

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self._head_dim(self.heads, self.width)

    @property
    def groups(self) -> int:
        """Key/value heads."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def rotary_dim(self) -> int:
        """Channels of a head that rotate."""
        return self._rotary_dim(self.head_dim)

    @property
    def embedding_factor(self) -> float | None:
        """Number that embeddings are multiplied by; None: they are used as they are."""
        return None if self.embedding_scale is None else math.sqrt(self.width)

    def make_norm(self, width: int) -> nnx.Module:
        """Return a norm of the configured kind."""
        if self.norm_offset is None:
            return super().make_norm(width)
        return RMSNorm(width, eps=self.norm_eps, dtype=self.param_dtype, offset=self.norm_offset)

    def _frequencies(self, theta: float) -> jax.Array:
        """Return angular frequencies without scaling, as ``rotary_frequencies`` does."""
        exponents = jnp.arange(0, self.rotary_dim, 2, dtype=jnp.float32) / self.rotary_dim
        return theta**-exponents

    def rotary_frequencies(self) -> jax.Array:
        """Return the angular frequencies in radians per position, [rotary_dim / 2], float32."""
        frequencies = self._frequencies(self.rope_theta)
        if self.rope_scaling == 1.0:
            return frequencies
        if self.rope_scaling_kind == "linear":
            return frequencies / self.rope_scaling
        # kept is 0 where the wavelength exceeds rope_original / rope_low, and 1 where it is below
        # rope_original / rope_high.
        turns = self.rope_original * frequencies / (2 * math.pi)
        kept = jnp.clip((turns - self.rope_low) / (self.rope_high - self.rope_low), 0, 1)
        return frequencies * (kept + (1 - kept) / self.rope_scaling)

    def rotary(self, positions_BxL: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Return cosines and sines for these positions; None where positions are learned."""
        if self.positions != "rotary":
            return None
        return rotary_tables(positions_BxL, self.rotary_frequencies())

    def near_rotary(self, positions_BxL: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Return those of layers with a window; None where they rotate like the others."""
        if self.window_theta is None:
            return None
        return rotary_tables(positions_BxL, self._frequencies(self.window_theta))

    def make_block(self, key: jax.Array) -> nnx.Module:
        """Return one layer with fresh parameters."""
        return TransformerBlock(self, key)

    def position_params(self) -> int:
        """Return the number of parameters of learned positions."""
        return self.context_length * self.width if self.positions == "learned" else 0

    def layer_matrix_params(self) -> int:
        """Return the number of elements in the weight matrices of one layer."""
        D, H, G, K, F = self.width, self.heads, self.groups, self.head_dim, self.mlp_width
        return D * K * (2 * H + 2 * G) + (3 if self.mlp in GATED_MLPS else 2) * D * F

    def layer_params(self) -> int:
        """Return the number of parameters of one layer: matrices, biases and norms."""
        D, H, G, K, F = self.width, self.heads, self.groups, self.head_dim, self.mlp_width
        hidden = 2 * F if self.mlp in GATED_MLPS else F
        biases = (H + 2 * G) * K if self.biases else 0
        biases += D + hidden + D if self.biases is True else 0
        normed = {"none": 0, "head": 2 * K, "width": (H + G) * K}[self.qk_norm]
        norms = 4 if self.post_norm == "both" else 2
        return self.layer_matrix_params() + biases + self.norm_params(normed + norms * D)

    def stack_params(self) -> int:
        """Return the number of parameters in all layers and the final norm."""
        return self.layers * self.layer_params() + self.norm_params(self.width)

    def layer_flops(self, context_length: int, window: int | None = None) -> FlopCounts:
        """Return the forward operations per token of one layer, with the full square of scores.

        Args:
            context_length: tokens in a row.
            window: positions that a query of the layer attends to; None: all.
        """
        # Two products (scores, weighted values), each 2 operations per multiply-add.
        scores = 2 * 2 * context_length * self.heads * self.head_dim
        square: float = scores
        if window is not None and window < context_length:
            scores = 2 * 2 * window * self.heads * self.head_dim
            # Of a band, causality leaves out a triangle at its beginning.
            square = scores * (window - 1) / (context_length - 1)
        return FlopCounts(matmul=2 * self.layer_matrix_params() + scores, square=square)

    def layers_flops(self, context_length: int, layers: int) -> FlopCounts:
        """Return the forward operations per token of a number of attention layers."""
        full = layers if self.window is None else layers // (self.full_every or layers + 1)
        flops = self.layer_flops(context_length) * full
        if full == layers:
            return flops
        return flops + self.layer_flops(context_length, self.window) * (layers - full)

    def stack_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of all layers."""
        return self.layers_flops(context_length, self.layers)


class TransformerBlock(nnx.Module):
    """One layer: attention, then MLP, each added to the residual stream."""

    def __init__(self, config: TransformerConfig, key: jax.Array) -> None:
        attention_key, mlp_key = jax.random.split(key)
        self.config = config
        self.attention_norm = config.make_norm(config.width)
        self.attention = SelfAttention(config, attention_key)
        self.mlp_norm = config.make_norm(config.width)
        biases = config.biases is True
        self.mlp = make_mlp(
            config, mlp_key, kind=config.mlp, hidden=config.mlp_width, biases=biases
        )
        if config.post_norm == "both":
            self.attended_norm = config.make_norm(config.width)
            self.mlp_out_norm = config.make_norm(config.width)

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        attended_BxLxD = self.attention(self._before_attention(x_BxLxD), rows)
        return self._after_attention(x_BxLxD, attended_BxLxD)

    def empty_cache(self, rows: int, length: int) -> KeyValueCache:
        """Return a cache of no tokens for texts of at most ``length`` tokens."""
        config = self.config
        shape = (rows, length, config.groups, config.head_dim)
        return KeyValueCache(
            key_BxCxGxK=jnp.zeros(shape, config.dtype),
            value_BxCxGxK=jnp.zeros(shape, config.dtype),
            valid_BxC=jnp.zeros(shape[:2], bool),
            filled=jnp.zeros((), jnp.int32),
        )

    def continued(
        self, x_BxLxD: jax.Array, rows: Rows, valid_BxL: jax.Array, cache: KeyValueCache
    ) -> tuple[jax.Array, KeyValueCache]:
        """Return the outputs at the next tokens, and the cache with them."""
        attended_BxLxD, cache = self.attention.continued(
            self._before_attention(x_BxLxD), rows, valid_BxL, cache
        )
        return self._after_attention(x_BxLxD, attended_BxLxD), cache

    def _before_attention(self, x_BxLxD: jax.Array) -> jax.Array:
        return x_BxLxD if self.config.post_norm is True else self.attention_norm(x_BxLxD)

    def _after_attention(self, x_BxLxD: jax.Array, attended_BxLxD: jax.Array) -> jax.Array:
        """Return the output of the layer from its input and the output of attention."""
        if self.config.post_norm == "both":
            x_BxLxD = x_BxLxD + self.attended_norm(attended_BxLxD)
            return x_BxLxD + self.mlp_out_norm(self.mlp(self.mlp_norm(x_BxLxD)))
        if self.config.post_norm:
            x_BxLxD = x_BxLxD + self.attention_norm(attended_BxLxD)
            return x_BxLxD + self.mlp_norm(self.mlp(x_BxLxD))
        if self.config.parallel:
            return x_BxLxD + attended_BxLxD + self.mlp(self.mlp_norm(x_BxLxD))
        x_BxLxD = x_BxLxD + attended_BxLxD
        return x_BxLxD + self.mlp(self.mlp_norm(x_BxLxD))


class SelfAttention(nnx.Module):
    """Grouped-query causal attention (Ainslie et al., 2305.13245)."""

    def __init__(self, config: TransformerConfig, key: jax.Array) -> None:
        D, H, G, K = config.width, config.heads, config.groups, config.head_dim
        keys = jax.random.split(key, 4)
        self.config = config
        self.query = config.matrix(keys[0], (D, H, K), "embed", "heads", "head_dim")
        self.key = config.matrix(keys[1], (D, G, K), "embed", "kv_heads", "head_dim")
        self.value = config.matrix(keys[2], (D, G, K), "embed", "kv_heads", "head_dim")
        self.out = config.matrix(
            keys[3], (H, K, D), "heads", "head_dim", "embed", fan_in=H * K, output=True
        )
        if config.biases:
            self.query_bias = config.vector(H * K, "heads")
            self.key_bias = config.vector(G * K, "kv_heads")
            self.value_bias = config.vector(G * K, "kv_heads")
        if config.biases is True:
            self.out_bias = config.vector(D, "norm")
        if config.qk_norm != "none":
            whole = config.qk_norm == "width"
            self.query_norm = config.make_norm(H * K if whole else K)
            self.key_norm = config.make_norm(G * K if whole else K)

    def __call__(self, x_BxLxD: jax.Array, rows: Rows) -> jax.Array:
        q, k, v = self._projected(x_BxLxD, rows)
        return self._merged(
            attention(
                q,
                k,
                v,
                runs_BxL=rows.runs_BxL,
                window=self._window(x_BxLxD.shape[1], rows),
                implementation=self.config.attention_implementation,
            )
        )

    def continued(
        self, x_BxLxD: jax.Array, rows: Rows, valid_BxL: jax.Array, cache: KeyValueCache
    ) -> tuple[jax.Array, KeyValueCache]:
        """Return the outputs at the next tokens, and the cache with their keys and values."""
        q, k, v = self._projected(x_BxLxD, rows)
        cache = cache.extended(k, v, valid_BxL)
        window = self._window(cache.valid_BxC.shape[1], rows)
        return self._merged(cache.attend(q, window)), cache

    def _projected(self, x_BxLxD: jax.Array, rows: Rows) -> tuple[jax.Array, ...]:
        """Return queries, keys and values, [B, L, heads, K], normed and rotated."""
        config, (B, L, D) = self.config, x_BxLxD.shape
        weights = [w[...].reshape(D, -1) for w in (self.query, self.key, self.value)]
        q, k, v = (
            product(x).reshape(B, L, -1, config.head_dim) for x in linear_many(x_BxLxD, weights)
        )
        if config.biases:
            q = q + like(self.query_bias, q)
            k = k + like(self.key_bias, k)
            v = v + like(self.value_bias, v)
        if config.qk_norm != "none":
            q, k = self._normed(q, self.query_norm), self._normed(k, self.key_norm)
        q, k = self._rotated(q, rows), self._rotated(k, rows)
        if config.score_width is not None:
            # Attention divides scores by the square root of the channels of a head.
            factor = math.sqrt(config.head_dim / config.score_width)
            q = (q.astype(jnp.float32) * factor).astype(q.dtype)
        return q, k, v

    def _merged(self, out_BxLxHxK: jax.Array) -> jax.Array:
        """Return the output projection of all heads, [B, L, D]."""
        (B, L), D = out_BxLxHxK.shape[:2], self.config.width
        out_BxLxD = product(linear(out_BxLxHxK.reshape(B, L, -1), self.out[...].reshape(-1, D)))
        biased = self.config.biases is True
        return out_BxLxD + like(self.out_bias, out_BxLxD) if biased else out_BxLxD

    def _rotated(self, x_BxLxHxK: jax.Array, rows: Rows) -> jax.Array:
        if rows.rotary is None:
            return x_BxLxHxK
        tables = rows.rotary
        if rows.near_rotary is not None:
            assert self.config.full_every is not None
            is_full = _is_nth(self.config.full_every, rows)
            tables = jax.tree.map(partial(jnp.where, is_full), tables, rows.near_rotary)
        rotated = rotate(x_BxLxHxK, tables)
        if self.config.unrotated_every is None:
            return rotated
        return jnp.where(_is_nth(self.config.unrotated_every, rows), x_BxLxHxK, rotated)

    def _window(self, length: int, rows: Rows) -> int | jax.Array | None:
        """Return the number of positions that a query attends to; None: all."""
        config = self.config
        if config.window is None or config.window >= length:
            return None
        if config.full_every is None:
            return config.window
        return jnp.where(_is_nth(config.full_every, rows), length, config.window)

    def _normed(self, x_BxLxHxK: jax.Array, norm: nnx.Module) -> jax.Array:
        if self.config.qk_norm == "head":
            return norm(x_BxLxHxK)
        B, L = x_BxLxHxK.shape[:2]
        return norm(x_BxLxHxK.reshape(B, L, -1)).reshape(x_BxLxHxK.shape)


def _is_nth(every: int, rows: Rows) -> jax.Array:
    """Return whether this block is the last of every so many."""
    assert rows.block is not None, "the stack does not number its blocks"
    return (rows.block + 1) % every == 0
