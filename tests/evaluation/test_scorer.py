"""Float32 evaluations multiply in float32 on every device."""

import jax
import jax.numpy as jnp
import pytest

from lossline import models
from lossline.compilation.flops import total
from lossline.evaluation.scorer import _score
from lossline.models import LlamaConfig, Mamba2Config, MambaConfig
from lossline.ops.backend import compiling_for

SIZES = {"vocab_size": 264, "width": 128, "layers": 2, "context_length": 128}
FAMILIES = {
    "llama": LlamaConfig(**SIZES, heads=2, kv_heads=2, mlp_width=128),
    "mamba": MambaConfig(**SIZES, state=8),
    "mamba2": Mamba2Config(**SIZES, state=16, head_channels=32),
}


def products(config, backend: str, dtype: str) -> set:
    """Return the precisions of all products in a scoring, also inside kernels."""
    graphdef, state = models.abstract_state(
        type(config)(**{**vars(config), "activation_dtype": dtype})
    )
    ids = jax.ShapeDtypeStruct((2, 128), jnp.int32)
    scored = jax.ShapeDtypeStruct((1, 256), jnp.int32)
    with compiling_for(backend):
        trace = _score.trace(graphdef, ("nats_T",), state, ids, ids, ids, scored, scored)
    found = set()

    def look(equation):
        if equation.primitive.name == "dot_general":
            found.add(equation.params["precision"])
        return None

    total(trace.jaxpr, look)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_products_are_not_rounded_on_accelerators(family):
    full = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    for backend in ("tpu", "gpu"):
        assert products(FAMILIES[family], backend, "float32") == {full}
        assert None in products(FAMILIES[family], backend, "bfloat16")
