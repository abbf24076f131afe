"""Float32 evaluations multiply in float32 on every device."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from lossline import models
from lossline.compilation.flops import total
from lossline.evaluation.packing import PackedTexts
from lossline.evaluation.scorer import Scorer, _hidden, _losses
from lossline.evaluation.windows import WindowRule, document_windows
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
        layers = _hidden.trace(graphdef, state, ids, ids, ids)
        losses = _losses.trace(graphdef, ("nats_T",), state, layers.out_info, scored, scored)
    found = set()

    def look(equation):
        if equation.primitive.name == "dot_general":
            found.add(equation.params["precision"])
        return None

    for trace in (layers, losses):
        total(trace.jaxpr, look)
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_products_are_not_rounded_on_accelerators(family):
    full = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    for backend in ("tpu", "gpu"):
        assert products(FAMILIES[family], backend, "float32") == {full}
        assert None in products(FAMILIES[family], backend, "bfloat16")


def test_layers_are_compiled_once_for_sets_that_score_more_or_fewer_tokens():
    config = replace(FAMILIES["llama"], activation_dtype="float32")
    model = models.build(config, key=jax.random.key(0))
    graphdef, state = nnx.split(model)
    scorer = Scorer(graphdef)
    before = _hidden._cache_size(), _losses._cache_size()
    for length in (20, 120):
        texts = [np.arange(2, 2 + length, dtype=np.int32)]
        windows = [document_windows(length, WindowRule(context=128, stride=64))]
        packed = PackedTexts(texts, windows, opening_id=1, row_length=128, batch_size=1)
        (nats,) = scorer.nats_per_text(state, packed)
        logits = model(jnp.asarray([[1, *texts[0][:-1]]]))[0]
        expected = optax.softmax_cross_entropy_with_integer_labels(logits, texts[0]).sum()
        assert nats == pytest.approx(float(expected), rel=1e-5)
    assert _hidden._cache_size() - before[0] == 1
    assert _losses._cache_size() - before[1] == 2
