"""Base class of all model configurations: options, validation, counts, dictionary form."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from lossline.errors import UserError
from lossline.models.layers import LayerNorm, RMSNorm, parameter, truncated_normal

NORMS = ("rms", "layer")
ACTIVATION_DTYPES = ("bfloat16", "float32")
PARAM_DTYPES = ("float32", "bfloat16")
REMAT_POLICIES = ("none", "full", "dots", "offload")


@dataclass(frozen=True, kw_only=True)
class ParamCounts:
    """Numbers of parameters.

    Attributes:
        total: all parameters, without the padding of the vocabulary.
        non_embedding: ``total`` without token embedding, unembedding and learned positions (Kaplan
            et al., 2001.08361, section 2.1).
    """

    total: int
    non_embedding: int


@dataclass(frozen=True, kw_only=True)
class FlopCounts:
    """Floating-point operations of one token's forward pass.

    Attributes:
        matmul: operations of matrix products, 2 per multiply-add. Attention scores count the full
            square of positions, as in PaLM (2204.02311, appendix B) and most published figures; a
            causal kernel does about half of them.
        square: the part of ``matmul`` that attention scores and their use as weights take.
        scan: elementwise operations of state-space layers: convolution and recurrence.
    """

    matmul: float
    square: float = 0.0
    scan: float = 0.0

    def __add__(self, other: FlopCounts) -> FlopCounts:
        return FlopCounts(
            matmul=self.matmul + other.matmul,
            square=self.square + other.square,
            scan=self.scan + other.scan,
        )

    def __mul__(self, times: float) -> FlopCounts:
        return FlopCounts(
            matmul=self.matmul * times, square=self.square * times, scan=self.scan * times
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ABC):
    """Options that every family shares.

    A subclass adds its own options, counts its parameters and operations, and makes one block.

    Attributes:
        vocab_size: number of token ids.
        width: width of the residual stream.
        layers: number of layers.
        context_length: number of positions in a training row.
        tie_embeddings: use the transposed token embedding as unembedding.
        norm: "rms" or "layer".
        norm_scale: give norms a learned scale (OLMo has none).
        norm_bias: give layer norms a learned bias.
        norm_eps: number added to the mean square (or variance) before the square root.
        init_std: standard deviation of fresh matrices and embeddings; None: 1 / sqrt(fan in).
            Output projections of layers are divided by sqrt(2 layers) (GPT-2).
        vocab_multiple: pad the embedding matrices to a multiple of this number, so that the mesh
            can split them evenly. Padded ids get probability 0.
        activation_dtype: dtype of activations and matrix products. Norms, softmax, scan states and
            logits are always float32.
        param_dtype: dtype of the stored parameters. Training keeps float32 copies of bfloat16 ones.
        remat: what the backward pass recomputes. "none": nothing; "full": everything but the input
            of each block; "dots": everything but matrix products; "offload": the same, with those
            products kept in host memory. Without ``scan_layers``, XLA's CPU backend undoes it.
        scan_layers: compile one block and loop it over the depth, so that compile time does not
            grow with depth. False unrolls the loop: steps on CPU are 1.2 to 1.35 times faster,
            compilation is slower. Parameters are stacked in both cases.
    """

    vocab_size: int
    width: int
    layers: int
    context_length: int
    tie_embeddings: bool = False
    norm: str = "rms"
    norm_scale: bool = True
    norm_bias: bool = False
    norm_eps: float = 1e-5
    init_std: float | None = None
    vocab_multiple: int = 1
    activation_dtype: str = "bfloat16"
    param_dtype: str = "float32"
    remat: str = "none"
    scan_layers: bool = True

    family: ClassVar[str]

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "context_length", "vocab_multiple"):
            self.require_positive(name)
        self.require_choice("norm", NORMS)
        if self.norm_bias and not self.norm_scale:
            raise UserError(
                f"{self.family}.norm_bias = True needs {self.family}.norm_scale = True: set both,"
                f" or set norm_bias to False"
            )
        self.require_choice("activation_dtype", ACTIVATION_DTYPES)
        self.require_choice("param_dtype", PARAM_DTYPES)
        self.require_choice("remat", REMAT_POLICIES)
        if not 0 <= self.norm_eps < math.inf:
            raise UserError(
                f"{self.family}.norm_eps is {self.norm_eps}: it must be finite and at least 0"
            )
        if self.init_std is not None and not 0 < self.init_std < math.inf:
            raise UserError(
                f"{self.family}.init_std is {self.init_std}: it must be positive and finite"
            )

    # --- methods that a family implements ---

    @property
    def block_layers(self) -> int:
        """Layers in one block; blocks are stacked and scanned."""
        return 1

    @property
    def has_different_blocks(self) -> bool:
        """Whether blocks differ in more than their parameters, so that each needs its number."""
        return False

    @abstractmethod
    def make_block(self, key: jax.Array) -> nnx.Module:
        """Return one block with fresh parameters, to be called as ``block(x_BxLxD, rows)``."""

    @abstractmethod
    def stack_params(self) -> int:
        """Return the number of parameters in all layers and the final norm."""

    @abstractmethod
    def stack_flops(self, context_length: int) -> FlopCounts:
        """Return the forward operations per token of all layers."""

    # --- parts of a block ---

    def std(self, fan_in: int, *, output: bool = False) -> float:
        """Return the standard deviation of a fresh matrix.

        Args:
            fan_in: number of inputs of one output.
            output: the matrix projects a layer's result back to the residual stream.
        """
        std = fan_in**-0.5 if self.init_std is None else self.init_std
        return std * (2 * self.layers) ** -0.5 if output else std

    def matrix(
        self,
        key: jax.Array,
        shape: tuple[int, ...],
        *axes: str,
        fan_in: int | None = None,
        output: bool = False,
    ) -> nnx.Param:
        """Return fresh weights.

        Args:
            key: random key.
            shape: shape of the weights.
            *axes: logical name of each axis.
            fan_in: number of inputs of one output; None: the size of the first axis.
            output: as in ``std``.
        """
        std = self.std(shape[0] if fan_in is None else fan_in, output=output)
        return parameter(truncated_normal(key, shape, std, self.param_dtype), *axes)

    def vector(self, length: int, axis: str) -> nnx.Param:
        """Return a fresh bias of zeros, [length]."""
        return parameter(jnp.zeros(length, self.param_dtype), axis)

    def make_norm(self, width: int) -> nnx.Module:
        """Return a norm of the configured kind."""
        eps, dtype, scale = self.norm_eps, self.param_dtype, self.norm_scale
        if self.norm == "rms":
            return RMSNorm(width, eps=eps, dtype=dtype, scale=scale)
        return LayerNorm(width, eps=eps, dtype=dtype, scale=scale, bias=self.norm_bias)

    def norm_params(self, width: int) -> int:
        """Return the number of parameters of a norm of this width."""
        if not self.norm_scale:
            return 0
        return 2 * width if self.norm == "layer" and self.norm_bias else width

    # --- derived quantities ---

    @property
    def blocks(self) -> int:
        """Blocks in the stack."""
        return self.layers // self.block_layers

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding matrices, padding included."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def dtype(self) -> jnp.dtype:
        """Activation dtype."""
        return jnp.dtype(self.activation_dtype)

    @property
    def embedding_factor(self) -> float | None:
        """Number that embeddings are multiplied by; None: they are used as they are."""
        return None

    def rotary(self, positions_BxL: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Return cosines and sines, each [B, L, 1, K/2], float32; None if no layer rotates.

        Args:
            positions_BxL: position of each token.
        """
        return None

    def near_rotary(self, positions_BxL: jax.Array) -> tuple[jax.Array, jax.Array] | None:
        """Return those of layers with a window; None where they rotate like the others."""
        return None

    def position_params(self) -> int:
        """Return the number of parameters of learned positions."""
        return 0

    def num_params(self) -> ParamCounts:
        """Return the exact parameter counts."""
        matrices = 1 if self.tie_embeddings else 2
        embedding = matrices * self.vocab_size * self.width + self.position_params()
        stack = self.stack_params()
        return ParamCounts(total=stack + embedding, non_embedding=stack)

    def flop_counts(self, context_length: int | None = None) -> FlopCounts:
        """Return the forward operations per token.

        Args:
            context_length: tokens in a row; None: ``self.context_length``.
        """
        length = self.context_length if context_length is None else context_length
        return self.stack_flops(length) + FlopCounts(matmul=2 * self.width * self.vocab_size)

    def flops_per_token(self, context_length: int | None = None) -> float:
        """Return the training operations per token: 3 times those of the forward pass.

        The backward pass of one matrix product is two products. Scan operations count too;
        operations that remat repeats do not. See ``FlopCounts.matmul``.
        """
        counts = self.flop_counts(context_length)
        return 3 * (counts.matmul + counts.scan)

    def causal_flops_per_token(self, context_length: int | None = None) -> float:
        """Return ``flops_per_token`` without the attention scores above the diagonal.

        Causal attention does not need the pairs of a query and a later position. This is the lower
        limit for any implementation.
        """
        length = self.context_length if context_length is None else context_length
        above_diagonal = 0.5 * (1 - 1 / length)
        return self.flops_per_token(length) - 3 * above_diagonal * self.flop_counts(length).square

    def to_dict(self) -> dict[str, Any]:
        """Return a form that JSON can store; ``config_from_dict`` reads it.

        Options whose field says ``written = "unless None"`` are left out if they are None: the form
        of a model is then the same as before these options existed.
        """
        later = {f.name for f in dataclasses.fields(self) if f.metadata.get("written")}
        options = dataclasses.asdict(self)
        kept = {name: v for name, v in options.items() if v is not None or name not in later}
        return {"__class__": type(self).__name__, **kept}

    # --- validation ---

    def require_positive(self, name: str) -> None:
        """Raise a UserError unless the named option is at least 1."""
        value = getattr(self, name)
        if value < 1:
            raise UserError(f"{self.family}.{name} is {value}: it must be at least 1")

    def require_interval(self, low: str, high: str) -> None:
        """Raise a UserError unless 0 < the first named option <= the second."""
        values = getattr(self, low), getattr(self, high)
        if not 0 < values[0] <= values[1]:
            raise UserError(
                f"{self.family}.{low} = {values[0]} and {self.family}.{high} = {values[1]}: the"
                f" first must be positive, the second must be at least the first"
            )

    def require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Raise a UserError unless the named option is one of ``choices``."""
        value = getattr(self, name)
        if value not in choices:
            raise UserError(
                f"{self.family}.{name} is {value!r}: choose one of {', '.join(choices)}"
            )

    def require_divides(
        self, divisor: str, dividend: str, works: Callable[[int, int], bool] = lambda *_: True
    ) -> None:
        """Raise a UserError unless one option divides the other.

        The message gives both numbers and the nearest numbers that work.

        Args:
            divisor: name of the option that must divide.
            dividend: name of the option that must be divisible.
            works: further condition on a divisor and a dividend, for the numbers to propose.
        """
        small, large = getattr(self, divisor), getattr(self, dividend)
        if large % small == 0:
            return
        divisors = nearest_divisors(small, large, lambda n: works(n, large))
        fixes = [f"{divisor} to {' or '.join(str(n) for n in divisors)}"] if divisors else []
        multiple = nearest_multiple(large, small, lambda n: works(small, n))
        derived = dividend not in {field.name for field in dataclasses.fields(self)}
        if multiple is not None and not derived:
            fixes.append(f"{dividend} to {multiple}")
        raise UserError(
            f"{self.family}.{divisor} = {small} does not divide {self.family}.{dividend} = {large}:"
            f" set {', or '.join(fixes) or 'others'}"
        )


def nearest_divisors(
    wanted: int, number: int, works: Callable[[int], bool] = lambda _: True
) -> list[int]:
    """Return the nearest divisors of ``number`` below and above ``wanted``, where they exist.

    Only divisors for which ``works`` returns true are considered.
    """
    divisors = [n for n in range(1, number + 1) if number % n == 0 and works(n)]
    below = [n for n in divisors if n < wanted][-1:]
    above = [n for n in divisors if n > wanted][:1]
    return below + above


def nearest_multiple(wanted: int, factor: int, works: Callable[[int], bool]) -> int | None:
    """Return the multiple of ``factor`` nearest to ``wanted`` for which ``works`` returns true.

    The search ends at twice ``wanted``; the result is None if no multiple works.
    """
    multiples = range(factor, 2 * wanted + 2 * factor, factor)
    return min(filter(works, multiples), key=lambda n: abs(n - wanted), default=None)
