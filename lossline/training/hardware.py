"""Peak rates of the accelerators, for MFU: the model's operations per second over that peak.

The model's operations are those of training without recomputation (remat), counted in two ways:

``mfu``         with attention's whole square of positions (``flops_per_token``), as PaLM
                (2204.02311, appendix B) and most published figures. A causal kernel skips half of
                the square, so that at long contexts this can exceed 1.
``mfu_causal``  without attention to later positions (``causal_flops_per_token``): all of it must be
                computed, so that no step exceeds 1. This is what `lossline.compile` bounds.
"""

from __future__ import annotations

import jax

# Dense bfloat16 FLOP/s per JAX device, from the vendors' data sheets (without sparsity). Longest
# match first.
_PEAKS = (
    ("TPU v6 lite", 918e12),
    ("TPU v6e", 918e12),
    ("TPU v5 lite", 197e12),
    ("TPU v5e", 197e12),
    ("TPU v5p", 459e12),
    ("TPU v5", 459e12),
    ("TPU v4", 275e12),
    ("TPU v3", 61.5e12),  # per core, two cores per chip
    ("TPU v2", 22.5e12),
    ("B200", 2250e12),
    ("H200", 989.4e12),
    ("H100 PCIe", 756e12),
    ("H100", 989.4e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("V100", 125e12),
)


def peak_flops(device: jax.Device) -> float | None:
    """Peak dense bfloat16 FLOP/s of one device; None where it is not known (any CPU)."""
    kind = device.device_kind.lower()
    for name, peak in _PEAKS:
        if name.lower() in kind:
            return peak
    return None
