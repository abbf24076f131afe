"""Cross-entropy over a large vocabulary, from hidden states and the unembedding matrix.

The float32 logits [T, V] are the largest tensor of a training step. The "chunked" implementation
keeps only one chunk of them at a time. The gradient of ``total`` needs no extra matrix product: it
is computed in the forward pass, where the softmax of each chunk exists, and the backward pass only
scales it. ``nats_T`` and ``logsumexp_T`` are differentiable too, but their backward pass recomputes
the logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from lossline.ops import cpu_matmul
from lossline.ops.backend import BACKENDS, choose, target_backend
from lossline.sharding.mesh import BATCH_AXES
from lossline.sharding.rules import constrain

IMPLEMENTATIONS = {"reference": BACKENDS, "chunked": BACKENDS}
CPU_CHUNK = 512  # tokens; the speed of 128 to 2048 differs by less than 10%
ACCELERATOR_CHUNK = 4096  # tokens per device


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("total", "nats_T", "correct_T", "logsumexp_T"),
    meta_fields=(),
)
@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """Cross-entropy of a batch. Per-token fields have the shape of the targets and no weights.

    Attributes:
        total: Σ weights · (nats + z_loss · logsumexp²), a float32 scalar; differentiate this.
        nats_T: negative log-probability of each target, float32.
        correct_T: whether the target is the most probable token, bool. Of several equal ones the
            first counts, as in argmax.
        logsumexp_T: logarithm of the denominator of the softmax, float32.
    """

    total: jax.Array
    nats_T: jax.Array
    correct_T: jax.Array
    logsumexp_T: jax.Array


def linear_cross_entropy(
    x_TxD: jax.Array,
    w_DxV: jax.Array,
    targets_T: jax.Array,
    *,
    weights_T: jax.Array | None = None,
    z_loss: float = 0.0,
    vocab_size: int | None = None,
    implementation: str = "chunked",
    chunk: int | None = None,
) -> CrossEntropy:
    """Return the softmax cross-entropy of the logits ``x @ w``, in float32.

    Args:
        x_TxD: hidden states [T, D] or [B, L, D] in the activation dtype. Prefer [B, L, D] for a
            sharded batch: chunks are then cut along the length, so that every device works on every
            chunk.
        w_DxV: unembedding matrix. The product casts it to the dtype of x; its gradient is
            accumulated in float32.
        targets_T: token ids [T] or [B, L]; any valid id where the weight is 0.
        weights_T: weight of each target in ``total`` (0 for padding); None: all 1.
        z_loss: coefficient of logsumexp² (PaLM, 2204.02311, section 5).
        vocab_size: number of columns of w that are tokens; the columns after them are padding with
            probability 0. None: V.
        implementation: "chunked" or "reference".
        chunk: tokens per chunk over the whole batch; None: 512 on CPU, 4096 per device elsewhere.

    Returns:
        The total and the per-token values.

    Raises:
        UserError: the implementation is unknown.
    """
    choose("cross-entropy", implementation, IMPLEMENTATIONS)
    x, targets = x_TxD, targets_T
    weights = jnp.ones(targets.shape) if weights_T is None else weights_T
    weights = weights.astype(jnp.float32)
    vocab_size = w_DxV.shape[1] if vocab_size is None else vocab_size
    if implementation == "reference":
        return _reference(x, w_DxV, targets, weights, z_loss, vocab_size)
    shape = targets.shape
    if x.ndim == 2:
        x, targets, weights = x[None], targets[None], weights[None]
    x, targets, weights = (_rows_of_one_device(array) for array in (x, targets, weights))
    batch, length = targets.shape
    chunks = _number_of_chunks(batch, length, chunk)
    total, nats, correct, logsumexp = _chunked(
        x, w_DxV, targets, weights, z_loss, vocab_size, chunks
    )
    nats, correct, logsumexp = (array.reshape(shape) for array in (nats, correct, logsumexp))
    return CrossEntropy(total=total, nats_T=nats, correct_T=correct, logsumexp_T=logsumexp)


@partial(jax.tree_util.register_dataclass, data_fields=("nats_T", "entropy_T"), meta_fields=())
@dataclass(frozen=True, kw_only=True)
class TokenValues:
    """What a distribution over the vocabulary says about each token, in the shape of the targets.

    Attributes:
        nats_T: negative log-probability of each target, float32.
        entropy_T: -Σ p ln p of each distribution, in nats, float32 (arXiv:2404.07965, equation 8).
    """

    nats_T: jax.Array
    entropy_T: jax.Array


def linear_token_values(
    x_TxD: jax.Array,
    w_DxV: jax.Array,
    targets_T: jax.Array,
    *,
    vocab_size: int | None = None,
    implementation: str = "chunked",
    chunk: int | None = None,
) -> TokenValues:
    """Return nats and entropy of every token under the logits ``x @ w``, in one pass over them.

    For measuring only: a gradient through it would keep the logits of all chunks.

    Args:
        x_TxD: hidden states [T, D] or [B, L, D], as in ``linear_cross_entropy``.
        w_DxV: unembedding matrix.
        targets_T: token ids [T] or [B, L].
        vocab_size: number of columns of w that are tokens; the columns after them are padding with
            probability 0. None: V.
        implementation: "chunked" or "reference".
        chunk: tokens per chunk over the whole batch; None: 512 on CPU, 4096 per device elsewhere.

    Raises:
        UserError: the implementation is unknown.
    """
    choose("cross-entropy", implementation, IMPLEMENTATIONS)
    x, targets, shape = x_TxD, targets_T, targets_T.shape
    vocab_size = w_DxV.shape[1] if vocab_size is None else vocab_size
    if implementation == "reference":
        logits = jnp.einsum("...d,dv->...v", x.astype(jnp.float32), w_DxV.astype(jnp.float32))
        logp = jax.nn.log_softmax(logits[..., :vocab_size], axis=-1)
        nats = -jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
        return TokenValues(nats_T=nats, entropy_T=-jnp.sum(jnp.exp(logp) * logp, axis=-1))
    if x.ndim == 2:
        x, targets = x[None], targets[None]
    x, targets = (_rows_of_one_device(array) for array in (x, targets))
    w = w_DxV.astype(x.dtype)  # cast once, outside the loop over chunks

    def step(carry, inputs):
        x, targets = inputs
        logits = _logits(x, w, vocab_size)
        nats, _, logsumexp = _measure(logits, targets)
        return carry, (nats, _entropy(logits, logsumexp))

    batch, length = targets.shape
    inputs = _split((x, targets), _number_of_chunks(batch, length, chunk))
    _, measured = _scan(step, (), inputs)
    nats, entropy = (array.reshape(shape) for array in _join(measured, length))
    return TokenValues(nats_T=nats, entropy_T=entropy)


def _reference(x, w_DxV, targets, weights, z_loss: float, vocab_size: int) -> CrossEntropy:
    """Return the definition, with all float32 logits and autodiff gradients."""
    logits = jnp.einsum("...d,dv->...v", x.astype(jnp.float32), w_DxV.astype(jnp.float32))
    logits = logits[..., :vocab_size]
    logsumexp = jax.nn.logsumexp(logits, axis=-1)
    nats = logsumexp - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    total = jnp.sum(weights * (nats + z_loss * logsumexp**2))
    correct = jnp.argmax(logits, axis=-1) == targets
    return CrossEntropy(total=total, nats_T=nats, correct_T=correct, logsumexp_T=logsumexp)


def _number_of_chunks(batch: int, length: int, chunk: int | None) -> int:
    if chunk is None and target_backend() == "cpu":
        chunk = CPU_CHUNK
    elif chunk is None:
        chunk = ACCELERATOR_CHUNK * max(1, jax.sharding.get_abstract_mesh().size)
    return min(length, math.ceil(batch * length / chunk))


@partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _chunked(x, w_DxV, targets, weights, z_loss: float, vocab_size: int, chunks: int):
    """Return total, nats, correct and logsumexp; x is [B, L, D], targets and weights are [B, L]."""
    w = w_DxV.astype(x.dtype)  # cast once, outside the loop over chunks

    def step(total, inputs):
        x, targets, weights = inputs
        logits = _logits(x, w, vocab_size)
        nats, correct, logsumexp = _measure(logits, targets)
        return total + _weigh(nats, logsumexp, weights, z_loss), (nats, correct, logsumexp)

    inputs = _split((x, targets, weights), chunks)
    total, measured = _scan(step, jnp.zeros((), jnp.float32), inputs)
    return total, *_join(measured, targets.shape[1])


def _forward(x, w_DxV, targets, weights, z_loss: float, vocab_size: int, chunks: int):
    """Compute ``_chunked`` and the gradients of ``total`` by x and w while the softmax exists."""
    x, w_DxV, targets, weights = (p.value for p in (x, w_DxV, targets, weights))
    w = w_DxV.astype(x.dtype)
    shards = _batch_shards(targets.shape[0])

    def step(carry, inputs):
        total, dw = carry
        x, targets, weights = inputs
        logits = _logits(x, w, vocab_size)
        nats, correct, logsumexp = _measure(logits, targets)
        slope = weights * (1 + 2 * z_loss * logsumexp)  # gradient of total by logsumexp
        dx, dw_chunk = _gradients(x, w, logits, logsumexp, targets, slope, weights, shards)
        total = total + _weigh(nats, logsumexp, weights, z_loss)
        return (total, dw + dw_chunk), (nats, correct, logsumexp, dx)

    inputs = _split((x, targets, weights), chunks)
    (total, dw), measured = _scan(
        step, (jnp.zeros((), jnp.float32), _no_gradient(w, shards)), inputs
    )
    dw = jnp.sum(dw, axis=0)
    nats, correct, logsumexp, dx = _join(measured, targets.shape[1])
    residuals = (x, w_DxV, targets, nats, logsumexp, dx, dw)
    return (total, nats, correct, logsumexp), residuals


def _backward(z_loss: float, vocab_size: int, chunks: int, residuals, cotangents):
    x, w_DxV, targets, nats, logsumexp, dx, dw = residuals
    g_total, g_nats, _, g_logsumexp = cotangents
    dweights = jnp.zeros_like(nats)
    if _is_zero(g_total):  # nothing that is differentiated depends on total
        dx, dw = jnp.zeros_like(dx), jnp.zeros_like(dw)
    else:
        dx, dw = (dx * g_total).astype(x.dtype), dw * g_total
        dweights = g_total * (nats + z_loss * logsumexp**2)
    if not (_is_zero(g_nats) and _is_zero(g_logsumexp)):
        g_nats, g_logsumexp = (
            jnp.zeros_like(nats) if _is_zero(g) else g for g in (g_nats, g_logsumexp)
        )
        more_dx, more_dw = _recomputed(
            x, w_DxV, targets, logsumexp, g_nats, g_logsumexp, vocab_size, chunks
        )
        dx, dw = dx + more_dx, dw + more_dw
    return dx, dw.astype(w_DxV.dtype), None, dweights


_chunked.defvjp(_forward, _backward, symbolic_zeros=True)


def _recomputed(x, w_DxV, targets, logsumexp, g_nats, g_logsumexp, vocab_size: int, chunks: int):
    """Return the gradients by x and w for any cotangents of the per-token outputs."""
    w = w_DxV.astype(x.dtype)
    shards = _batch_shards(targets.shape[0])

    def step(dw, inputs):
        x, targets, logsumexp, g_nats, g_logsumexp = inputs
        logits = _logits(x, w, vocab_size)
        slope = g_nats + g_logsumexp
        dx, dw_chunk = _gradients(x, w, logits, logsumexp, targets, slope, g_nats, shards)
        return dw + dw_chunk, dx

    inputs = _split((x, targets, logsumexp, g_nats, g_logsumexp), chunks)
    dw, dx = _scan(step, _no_gradient(w, shards), inputs)
    return _join((dx,), x.shape[1])[0], jnp.sum(dw, axis=0)


def _rows_of_one_device(x: jax.Array) -> jax.Array:
    """Reshape [B, L, …] to [B · sequence, L / sequence, …], so that each row lies on one device.

    Chunks then run along the length of one device. Nothing changes without mesh axis ``sequence``.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = 1 if mesh.empty else mesh.shape.get("sequence", 1)
    if parts == 1 or x.shape[1] % parts:
        return x
    x = x.reshape(x.shape[0] * parts, x.shape[1] // parts, *x.shape[2:])
    return constrain(x, "pieces", *(None,) * (x.ndim - 1))


def _batch_shards(rows: int) -> int:
    """Return the number of devices that the rows are split over.

    Each device sums the gradient of the unembedding over its own rows, in one array [shards, D, V]
    that stays split along its first axis. The devices then exchange it once, not once per chunk.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = (*BATCH_AXES, "sequence")
    shards = 1 if mesh.empty else math.prod(mesh.shape.get(axis, 1) for axis in axes)
    return shards if rows % shards == 0 else 1


def _no_gradient(w_DxV, shards: int) -> jax.Array:
    zeros = jnp.zeros((shards, *w_DxV.shape), jnp.float32)
    return constrain(zeros, "pieces" if shards > 1 else None, None, "vocab")


def _logits(x, w_DxV, vocab_size: int) -> jax.Array:
    logits = _contract(x, w_DxV, (((x.ndim - 1,), (0,)), ((), ())))
    if vocab_size == w_DxV.shape[1]:
        return logits
    # A logit of -inf gives padded columns probability 0 and gradient 0.
    return jnp.where(jnp.arange(w_DxV.shape[1]) < vocab_size, logits, -jnp.inf)


def _measure(logits, targets) -> tuple[jax.Array, jax.Array, jax.Array]:
    V = logits.shape[-1]
    # Subtract the maximum, so that exp() cannot overflow.
    top = jnp.max(logits, axis=-1, keepdims=True)
    logsumexp = jnp.log(jnp.sum(jnp.exp(logits - top), axis=-1)) + top[..., 0]
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    # Compute argmax as a minimum: XLA CPU does not vectorize the two-operand reduction of argmax.
    index = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    best = jnp.min(jnp.where(logits == top, index, V), axis=-1)
    return logsumexp - target_logit, best == targets, logsumexp


def _entropy(logits, logsumexp) -> jax.Array:
    """Return Σ p · (−ln p): no term is negative, so that none cancels another."""
    surprise = logsumexp[..., None] - logits
    p = jnp.exp(-surprise)
    # A column of padding, or with a probability below the smallest float32, counts as 0 · ∞ = 0.
    return jnp.sum(jnp.where(p > 0, p * surprise, 0.0), axis=-1)


def _weigh(nats, logsumexp, weights, z_loss: float) -> jax.Array:
    return jnp.sum(weights * (nats + z_loss * logsumexp**2))


def _gradients(x, w_DxV, logits, logsumexp, targets, softmax_slope, target_slope, shards: int):
    """Return the gradients by x and w of Σ softmax_slope · logsumexp − target_slope · target logit.

    The slopes are per token. The gradient by w is [shards, D, V], one for each part of the batch.
    """
    index = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    # By a logit: d logsumexp = its softmax probability, d target logit = 1 at the target.
    softmax = jnp.exp(logits - logsumexp[..., None]) * softmax_slope[..., None]
    dlogits = softmax - jnp.where(index == targets[..., None], target_slope[..., None], 0)
    dlogits = dlogits.astype(x.dtype)  # both products below run in the activation dtype
    dx = _contract(dlogits, w_DxV, (((dlogits.ndim - 1,), (1,)), ((), ()))).astype(x.dtype)
    if shards == 1 and target_backend() == "cpu":
        x_TxD, g_TxV = x.reshape(-1, x.shape[-1]), dlogits.reshape(-1, dlogits.shape[-1])
        return dx, cpu_matmul.weight_gradient(x_TxD, g_TxV)[None]
    x_SxTxD, g_SxTxV = (array.reshape(shards, -1, array.shape[-1]) for array in (x, dlogits))
    contract_tokens = (((1,), (1,)), ((0,), (0,)))
    return dx, _contract(x_SxTxD, g_SxTxV, contract_tokens)


def _contract(a, b, dimensions) -> jax.Array:
    """Return a matrix product with a float32 result."""
    if target_backend() == "cpu":
        return cpu_matmul.contract(a, b, dimensions)
    return lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _split(arrays, chunks: int):
    """Reshape [B, L, …] to [C, B, Q, …]; the length is padded with zeros to whole chunks."""

    def split(x: jax.Array) -> jax.Array:
        B, L = x.shape[:2]
        positions = math.ceil(L / chunks)
        x = jnp.pad(x, ((0, 0), (0, positions * chunks - L)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(B, chunks, positions, *x.shape[2:]).swapaxes(0, 1)

    return jax.tree.map(split, arrays)


def _join(arrays, length: int):
    """Reshape [C, B, Q, …] to [B, L, …]."""

    def join(x: jax.Array) -> jax.Array:
        C, B, Q = x.shape[:3]
        return x.swapaxes(0, 1).reshape(B, C * Q, *x.shape[3:])[:, :length]

    return jax.tree.map(join, arrays)


def _scan(step, carry, inputs):
    """Run ``lax.scan``; run a single chunk without the loop."""
    if jax.tree.leaves(inputs)[0].shape[0] > 1:
        return lax.scan(step, carry, inputs)
    carry, outputs = step(carry, jax.tree.map(lambda x: x[0], inputs))
    return carry, jax.tree.map(lambda x: x[None], outputs)


def _is_zero(cotangent) -> bool:
    return isinstance(cotangent, SymbolicZero)
