"""What all model configurations share: options, validation, counts, and the dictionary form stored
with a run.
"""

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
        total: all of them; padding of the vocabulary is not counted.
        non_embedding: without token embedding, unembedding and learned positions (Kaplan et al.,
            2001.08361, section 2.1).
    """

    total: int
    non_embedding: int


@dataclass(frozen=True, kw_only=True)
class FlopCounts:
    """Floating-point operations of one token's forward pass.

    Attributes:
        matmul: 2 per multiply-add of every matrix product. Attention scores count the full square
            of positions, as PaLM (2204.02311, appendix B) and most published figures do; a causal
            kernel does about half of that part.
        square: that part of ``matmul``.
        scan: elementwise work of state-space layers that is no matrix product: convolution and
            recurrence.
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
    """Options of every family. Subclasses add theirs, count, and make one block of layers.

    Attributes:
        vocab_size: token ids the model knows.
        width: of the residual stream.
        layers: depth.
        context_length: positions the model is meant for.
        tie_embeddings: the unembedding is the transposed token embedding.
        norm: "rms" or "layer".
        norm_scale: norms have a learned scale (OLMo's have none).
        norm_bias: of layer norms.
        norm_eps: added to the mean square (or variance) under the root.
        init_std: standard deviation of fresh matrices and embeddings; None: 1 / sqrt(fan in).
            Output projections of layers are divided by sqrt(2 layers) (GPT-2).
        vocab_multiple: the embedding matrices are padded to a multiple of this, so that they shard
            evenly; ids of the padding get probability 0.
        activation_dtype: of activations and products; norms, softmax, scan states and logits are
            float32 regardless.
        param_dtype: of the stored parameters; training keeps float32 copies of bfloat16 ones.
        remat: what the backward recomputes: "none"; "full" keeps only each block's input; "dots"
            keeps the products of matrices; "offload" keeps those in host memory.
        scan_layers: one compiled block looped over the depth: compile time independent of depth.
            Unrolled (False), steps on CPU are 1.2 to 1.35 times faster and compile longer.
            Parameters are stacked either way.
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
            raise UserError(f"{self.family}.norm_bias: only norms with a scale have a bias")
        self.require_choice("activation_dtype", ACTIVATION_DTYPES)
        self.require_choice("param_dtype", PARAM_DTYPES)
        self.require_choice("remat", REMAT_POLICIES)
        if not 0 <= self.norm_eps < math.inf:
            raise UserError(
                f"{self.family}.norm_eps is {self.norm_eps}: it must not be negative, nor infinite"
            )
        if self.init_std is not None and not 0 < self.init_std < math.inf:
            raise UserError(
                f"{self.family}.init_std is {self.init_std}: it must be positive and finite"
            )

    # --- what a family provides ---

    @property
    def block_layers(self) -> int:
        """Layers in one block, the unit that is stacked and scanned."""
        return 1

    @abstractmethod
    def make_block(self, key: jax.Array) -> nnx.Module:
        """One block with fresh parameters: called as ``block(x_BxLxD, rows)``."""

    @abstractmethod
    def stack_params(self) -> int:
        """Parameters of all layers and the final norm."""

    @abstractmethod
    def stack_flops(self, context_length: int) -> FlopCounts:
        """Forward operations per token of all layers."""

    # --- what blocks are made of ---

    def std(self, fan_in: int, *, output: bool = False) -> float:
        """Standard deviation of a fresh matrix."""
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
        """Fresh weights; ``fan_in`` is the first axis unless given, ``output`` as in ``std``."""
        std = self.std(shape[0] if fan_in is None else fan_in, output=output)
        return parameter(truncated_normal(key, shape, std, self.param_dtype), *axes)

    def vector(self, length: int, axis: str) -> nnx.Param:
        """A fresh bias."""
        return parameter(jnp.zeros(length, self.param_dtype), axis)

    def make_norm(self, width: int) -> nnx.Module:
        """A norm of the configured kind."""
        eps, dtype, scale = self.norm_eps, self.param_dtype, self.norm_scale
        if self.norm == "rms":
            return RMSNorm(width, eps=eps, dtype=dtype, scale=scale)
        return LayerNorm(width, eps=eps, dtype=dtype, scale=scale, bias=self.norm_bias)

    def norm_params(self, width: int) -> int:
        """Parameters of a norm of that width."""
        if not self.norm_scale:
            return 0
        return 2 * width if self.norm == "layer" and self.norm_bias else width

    # --- what follows from it ---

    @property
    def blocks(self) -> int:
        """Blocks in the stack."""
        return self.layers // self.block_layers

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding matrices."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    @property
    def dtype(self) -> jnp.dtype:
        """Activation dtype."""
        return jnp.dtype(self.activation_dtype)

    def position_params(self) -> int:
        """Parameters of learned positions."""
        return 0

    def num_params(self) -> ParamCounts:
        """Exact parameter counts."""
        matrices = 1 if self.tie_embeddings else 2
        embedding = matrices * self.vocab_size * self.width + self.position_params()
        stack = self.stack_params()
        return ParamCounts(total=stack + embedding, non_embedding=stack)

    def flop_counts(self, context_length: int | None = None) -> FlopCounts:
        """Forward operations per token at a context length (default the config's)."""
        length = self.context_length if context_length is None else context_length
        return self.stack_flops(length) + FlopCounts(matmul=2 * self.width * self.vocab_size)

    def flops_per_token(self, context_length: int | None = None) -> float:
        """Training operations per token: 3 times the forward's (the backward of a product is two
        products).

        Products of matrices (see ``FlopCounts.matmul``) plus scan; the recomputation of remat is
        not counted.
        """
        counts = self.flop_counts(context_length)
        return 3 * (counts.matmul + counts.scan)

    def causal_flops_per_token(self, context_length: int | None = None) -> float:
        """``flops_per_token`` without the pairs of a query and a later position, which causal
        attention need not compute: what no implementation can do without.
        """
        length = self.context_length if context_length is None else context_length
        above_diagonal = 0.5 * (1 - 1 / length)
        return self.flops_per_token(length) - 3 * above_diagonal * self.flop_counts(length).square

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; ``config_from_dict`` turns it back."""
        return {"__class__": type(self).__name__, **dataclasses.asdict(self)}

    # --- validation ---

    def require_positive(self, name: str) -> None:
        """Raises a UserError unless the named option is at least 1."""
        value = getattr(self, name)
        if value < 1:
            raise UserError(f"{self.family}.{name} is {value}: it must be at least 1")

    def require_interval(self, low: str, high: str) -> None:
        """Raises a UserError unless 0 < the first named option <= the second."""
        values = getattr(self, low), getattr(self, high)
        if not 0 < values[0] <= values[1]:
            raise UserError(
                f"{self.family}.{low} = {values[0]} and {self.family}.{high} = {values[1]}: the"
                f" first must be positive, the second no less"
            )

    def require_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Raises a UserError unless the named option is one of ``choices``."""
        value = getattr(self, name)
        if value not in choices:
            raise UserError(
                f"{self.family}.{name} is {value!r}: choose one of {', '.join(choices)}"
            )

    def require_divides(
        self, divisor: str, dividend: str, works: Callable[[int, int], bool] = lambda *_: True
    ) -> None:
        """Raises a UserError naming both numbers and the nearest that work, unless one option
        divides the other. ``works`` is what else must hold of a divisor and a dividend.
        """
        small, large = getattr(self, divisor), getattr(self, dividend)
        if large % small == 0:
            return
        divisors = nearest_divisors(small, large, lambda n: works(n, large))
        mends = [f"{divisor} to {' or '.join(str(n) for n in divisors)}"] if divisors else []
        multiple = nearest_multiple(large, small, lambda n: works(small, n))
        derived = dividend not in {field.name for field in dataclasses.fields(self)}
        if multiple is not None and not derived:
            mends.append(f"{dividend} to {multiple}")
        raise UserError(
            f"{self.family}.{divisor} = {small} does not divide {self.family}.{dividend} = {large}:"
            f" set {', or '.join(mends) or 'others'}"
        )


def nearest_divisors(
    wanted: int, number: int, works: Callable[[int], bool] = lambda _: True
) -> list[int]:
    """The largest divisor of ``number`` below ``wanted`` and the smallest above, of those that
    work, where they exist.
    """
    divisors = [n for n in range(1, number + 1) if number % n == 0 and works(n)]
    below = [n for n in divisors if n < wanted][-1:]
    above = [n for n in divisors if n > wanted][:1]
    return below + above


def nearest_multiple(wanted: int, factor: int, works: Callable[[int], bool]) -> int | None:
    """The multiple of ``factor`` nearest to ``wanted`` that works, below twice that; None: none."""
    multiples = range(factor, 2 * wanted + 2 * factor, factor)
    return min(filter(works, multiples), key=lambda n: abs(n - wanted), default=None)
