"""Count the matrix operations of a traced function from its jaxpr, loops by their length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from jax.extend import core

from lossline.ops.tpu_attention import share_of_blocks

Jaxpr = core.ClosedJaxpr | core.Jaxpr


def matmul_flops(jaxpr: Jaxpr) -> float:
    """Return the floating-point operations of all matrix products and convolutions, all devices.

    A multiply-add counts as 2 and recomputation of remat counts again. A ``while_loop`` of unknown
    length counts once, a ``cond`` by its most expensive branch, and a Pallas kernel by its grid,
    without the blocks that causal attention skips.
    """
    return total(jaxpr, _flops)


def total(jaxpr: Jaxpr, count: Callable[[Any], float | None]) -> float:
    """Return a sum over all equations, each as often as it runs, on all devices.

    Args:
        jaxpr: traced function.
        count: what one equation adds; None: add the functions that the equation calls.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return sum(_counted(equation, count) for equation in inner.eqns)


def _counted(equation: Any, count: Callable[[Any], float | None]) -> float:
    if not equation.outvars and not equation.effects:
        return 0.0  # remat saved everything that this would compute; XLA removes it
    own = count(equation)
    if own is not None:
        return own
    name, params = equation.primitive.name, equation.params
    if name == "cond":
        return max((total(branch, count) for branch in params["branches"]), default=0.0)
    inner = sum(total(sub, count) for sub in _sub_jaxprs(params))
    if name == "scan":
        return params["length"] * inner
    if name == "pallas_call":
        grid = params["grid_mapping"].grid
        return math.prod(grid) * share_of_blocks(str(params["name"]), grid) * inner
    if name == "shard_map":  # shapes inside are those of one shard: multiply by the shards
        mesh, manual = params["mesh"], params.get("manual_axes")
        return math.prod(mesh.shape[axis] for axis in (manual or mesh.axis_names)) * inner
    return inner


def _flops(equation: Any) -> float | None:
    if equation.primitive.name == "dot_general":
        return _dot_flops(equation)
    if equation.primitive.name == "conv_general_dilated":
        return _convolution_flops(equation)
    if equation.primitive.name in _CUDNN_PRODUCTS:
        return _cudnn_flops(equation)
    return None


# Matrix products inside cuDNN's attention. Forward: scores and outputs. Backward: the scores again,
# and the gradients of weights, queries, keys and values.
_CUDNN_PRODUCTS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def _cudnn_flops(equation: Any) -> float:
    """Count the causal half of each product; lossline's attention is always causal."""
    B, L, H, K = equation.invars[0].aval.shape
    return _CUDNN_PRODUCTS[equation.primitive.name] * B * H * L * L * K


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution_flops(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    spec = equation.params["dimension_numbers"].rhs_spec
    per_output = math.prod(size for axis, size in enumerate(kernel) if axis != spec[0])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * per_output


def _sub_jaxprs(params: Any) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.ClosedJaxpr, core.Jaxpr)):
                yield item
