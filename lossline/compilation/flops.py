"""Matrix operations of a traced function, counted in its jaxpr: loops by their length."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def matmul_flops(jaxpr: core.ClosedJaxpr | core.Jaxpr) -> float:
    """Floating-point operations of all products and convolutions, 2 per multiply-add, all devices.

    What remat computes again is counted again: it is executed. A ``while_loop`` of unknown length
    counts once, a ``cond`` by its most expensive branch.
    """
    inner = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
    return sum(_equation_flops(equation) for equation in inner.eqns)


def _equation_flops(equation: Any) -> float:
    name = equation.primitive.name
    if name == "dot_general":
        return _dot_flops(equation)
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    if name == "cond":
        return max((matmul_flops(branch) for branch in equation.params["branches"]), default=0.0)
    inner = sum(matmul_flops(sub) for sub in _sub_jaxprs(equation.params))
    if name == "scan":
        return equation.params["length"] * inner
    if name == "pallas_call":
        return math.prod(equation.params["grid_mapping"].grid) * inner
    if name == "shard_map":  # shapes inside are those of one shard
        mesh, manual = equation.params["mesh"], equation.params.get("manual_axes")
        sizes = [mesh.shape[axis] for axis in (manual or mesh.axis_names)]
        return math.prod(sizes) * inner
    return inner


def _dot_flops(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution_flops(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    spec = equation.params["dimension_numbers"].rhs_spec
    per_output = math.prod(size for axis, size in enumerate(kernel) if axis != spec[0])
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * per_output


def _sub_jaxprs(params: Any) -> Iterator[core.ClosedJaxpr | core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, (core.ClosedJaxpr, core.Jaxpr)):
                yield item
