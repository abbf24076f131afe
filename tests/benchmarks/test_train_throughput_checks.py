"""The correctness checks that run on a GPU before its speed is measured, traced for each backend.

A check that cannot be traced is found here, not on the GPU.
"""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from lossline.ops.backend import compiling_for


@pytest.fixture
def checks(repository: Path):
    path = repository / "experiments/benchmarks/train_throughput_checks.py"
    spec = importlib.util.spec_from_file_location("train_throughput_checks", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("backend", "kernels"),
    [("cpu", {"attention blocked"}), ("gpu", {"attention cudnn", "selective scan pallas"})],
)
def test_every_check_can_be_traced_with_its_gradients(checks, monkeypatch, backend, kernels):
    from jax._src.cudnn import fused_attention_stablehlo as library

    # JAX asks the GPU for its cuDNN version; this machine has no GPU.
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91002)
    seen = set()
    with compiling_for(backend):
        for operation, dtype, run, reference, inputs in checks.cases(64):
            seen.add(operation)
            assert jax.eval_shape(run, *inputs).shape == jax.eval_shape(reference, *inputs).shape

            def total(*inputs, run=run):
                return jnp.sum(run(*inputs).astype(jnp.float32))

            gradients = jax.eval_shape(jax.grad(total, argnums=range(len(inputs))), *inputs)
            assert [x.shape for x in gradients] == [x.shape for x in inputs], (operation, dtype)
    assert kernels < seen and {"state-space duality chunked", "cross-entropy chunked total"} < seen
