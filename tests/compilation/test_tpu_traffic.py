"""Regression test of the HBM traffic of each family on TPU."""

import importlib.util
from dataclasses import replace

import pytest

from lossline.compilation import targets
from lossline.compilation.analysis import analyze
from lossline.models import LlamaConfig, Mamba2Config, MambaConfig
from lossline.training.options import TrainOptions

ROWS, LENGTH, LAYERS = 8, 2048, 2
SHAPE = {"vocab_size": 256, "width": 512, "layers": LAYERS, "context_length": LENGTH}
LLAMA = LlamaConfig(**SHAPE, heads=4, mlp_width=1024)
MAMBA, MAMBA2 = MambaConfig(**SHAPE), Mamba2Config(**SHAPE)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed ([tpu] extra)"
)
@pytest.mark.parametrize(
    ("model", "channels", "arrays"),
    [
        (LLAMA, LLAMA.width, 108.6),
        (MAMBA, MAMBA.inner, 72.1),
        (MAMBA2, MAMBA2.inner, 46.7),  # 98.5 without pinned layouts
    ],
    ids=["llama", "mamba", "mamba2"],
)
def test_hbm_traffic_per_layer_has_not_changed(model, channels, arrays):
    """HBM bytes of a step on one v4, per layer, in units of one bfloat16 array [B, L, channels].

    The numbers are for libtpu 0.0.42.1. Transposing one such array reads and writes it, which adds
    2. Lower a number if a change reduced the traffic. Raise one only if another libtpu moves more
    for the same traced step.
    """
    slice_of_four = targets.find_target("v4:2x2x1")
    one_chip = replace(slice_of_four, devices=slice_of_four.devices[:1])
    options = TrainOptions(model=model, store="unread", batch_size=ROWS, steps=10)
    array = 2 * ROWS * LENGTH * channels
    moved = analyze(options, one_chip).memory_bytes / (LAYERS * array)
    assert arrays - 1 < moved < arrays + 1
