"""Check every implementation on this device before its speed is measured.

Outputs and gradients are compared with the float32 reference, which runs one position at a time.

    PYTHONPATH=. python experiments/benchmarks/train_throughput_checks.py [--small]

The script prints one line per implementation; the exit status is 1 if one exceeds its bound. A
bound limits the largest difference relative to the largest value of the reference, for the output
and for each gradient.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossline.ops import attention as attention_op
from lossline.ops import cross_entropy, selective_scan, state_space_duality
from lossline.ops.attention import attention
from lossline.ops.backend import target_backend

Arrays = tuple[jax.Array, ...]
# A GPU computes float32 products in TensorFloat-32 by default; main() sets full precision.
BOUNDS = {"float32": 2e-4, "bfloat16": 3e-2}


def differences(
    function: Callable[..., jax.Array], reference: Callable[..., jax.Array], inputs: Arrays
) -> list[float]:
    """Return the relative differences of the output and of the gradients by all inputs."""
    exact = tuple(x.astype(jnp.float32) for x in inputs)
    shape = jax.eval_shape(reference, *exact).shape
    weights = jnp.asarray(np.random.default_rng(1).standard_normal(shape), jnp.float32)

    def both(run: Callable[..., jax.Array], inputs: Arrays) -> list[jax.Array]:
        def total(*inputs: jax.Array) -> jax.Array:
            return jnp.sum(run(*inputs).astype(jnp.float32) * weights)

        gradients = jax.grad(total, argnums=tuple(range(len(inputs))))
        return [jax.jit(run)(*inputs), *jax.jit(gradients)(*inputs)]

    got, want = both(function, inputs), both(reference, exact)
    return [
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(got, want, strict=True)
    ]


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    """Return standard normal numbers in float32."""
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def cases(length: int) -> Iterator[tuple[str, str, Any, Any, Arrays]]:
    """Yield (operation, dtype, function, reference, inputs)."""
    rng = np.random.default_rng(0)
    backend = target_backend()
    q, k, v = normal(rng, 2, length, 8, 64), *normal(rng, 2, 2, length, 2, 64)
    runs = jnp.asarray(np.cumsum(rng.random((2, length)) < 8 / length, axis=1))  # documents
    u, x = normal(rng, 2, length, 256), normal(rng, 2, length, 4, 64)
    steps = jnp.asarray(rng.uniform(1e-3, 0.1, (2, length, 256)), jnp.float32)
    rates = -jnp.asarray(rng.uniform(1, 16, (16, 256)), jnp.float32)
    maps = normal(rng, 2, 2, length, 16)
    groups, skip = normal(rng, 2, 2, length, 1, 64), normal(rng, 4)
    hidden, table = normal(rng, 2, length, 256), 0.05 * normal(rng, 256, 4096)
    targets = jnp.asarray(rng.integers(0, 4096, (2, length)))
    for dtype in BOUNDS:
        for name, backends in attention_op.IMPLEMENTATIONS.items():
            if backend not in backends or (name == "cudnn" and dtype == "float32"):
                continue
            if name == "reference" and dtype == "float32":
                continue
            qkv = tuple(array.astype(dtype) for array in (q, k, v))
            run = _named(attention, name)
            yield f"attention {name}", dtype, run, attention_op.reference, qkv
            apart = (partial(f, runs_BxL=runs) for f in (run, attention_op.reference))
            yield f"attention {name}, documents", dtype, *apart, qkv
        scan_inputs = (u.astype(dtype), steps, rates, *(m.astype(dtype) for m in maps))
        for name, backends in selective_scan.IMPLEMENTATIONS.items():
            if backend in backends and name != "sequential":
                run = _named(selective_scan.selective_scan, name)
                reference = _named(selective_scan.selective_scan, "sequential")
                yield f"selective scan {name}", dtype, run, reference, scan_inputs
        dual = (
            x.astype(dtype),
            steps[..., :4],
            rates[0, :4],
            *(group.astype(dtype) for group in groups),
            skip,
        )
        for name, backends in state_space_duality.IMPLEMENTATIONS.items():
            if backend in backends and name != "sequential":
                run = _named(state_space_duality.state_space_duality, name)
                reference = _named(state_space_duality.state_space_duality, "sequential")
                yield f"state-space duality {name}", dtype, run, reference, dual
        for name, backends in cross_entropy.IMPLEMENTATIONS.items():
            if backend in backends and name != "reference":
                head = (hidden.astype(dtype), table)
                for what in ("nats_T", "total"):
                    run, reference = (_loss(n, what, targets) for n in (name, "reference"))
                    yield f"cross-entropy {name} {what}", dtype, run, reference, head


def _named(operation: Callable[..., jax.Array], name: str) -> Callable[..., jax.Array]:
    return partial(operation, implementation=name)


def _loss(name: str, what: str, targets: jax.Array) -> Callable[..., jax.Array]:
    def run(x: jax.Array, w: jax.Array) -> jax.Array:
        found = cross_entropy.linear_cross_entropy(x, w, targets, implementation=name)
        return getattr(found, what)

    return run


def main() -> None:
    """Run the checks, print them, and exit with 1 if one exceeds its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="64 positions instead of 1,024")
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    beyond = 0
    for operation, dtype, run, reference, inputs in cases(64 if args.small else 1024):
        found = differences(run, reference, inputs)
        bad = not max(found) <= BOUNDS[dtype]  # NaN is bad
        beyond += bad
        shown = " ".join(f"{value:.1e}" for value in found)
        print(
            f"{'BEYOND' if bad else 'within'} {BOUNDS[dtype]:.0e}  {operation:30} {dtype:9} {shown}"
        )
    sys.exit(1 if beyond else 0)


if __name__ == "__main__":
    main()
