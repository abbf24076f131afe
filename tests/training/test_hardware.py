"""Peak FLOP/s by JAX's device names."""

from types import SimpleNamespace

import pytest

from lossline.training.hardware import peak_flops


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v4", 275e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("cpu", None),
    ],
)
def test_peak_flops_of_known_devices(kind, peak):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == peak
