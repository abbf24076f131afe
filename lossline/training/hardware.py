"""Peak FLOP/s of accelerators, the denominator of MFU (model FLOPs utilization).

The numerator is the model's training FLOPs without recomputation (remat), counted in two ways:

- ``mfu``: attention over all pairs of positions (``flops_per_token``), as in PaLM
  (arXiv:2204.02311, appendix B) and most published figures. A causal kernel skips half of the
  pairs, so this value can exceed 1 at long contexts.
- ``mfu_causal``: attention only to earlier positions (``causal_flops_per_token``). All of these
  FLOPs must be computed, so this value never exceeds 1. ``lossline.compile`` reports a bound on it.
"""

from __future__ import annotations

import jax

# Dense bfloat16 FLOP/s per JAX device, from the vendors' data sheets (without sparsity). The first
# name that occurs in the device kind is used, so longer names come before their prefixes.
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
    """Return the peak dense bfloat16 FLOP/s of one device, or None if unknown (such as a CPU)."""
    kind = device.device_kind.lower()
    for name, peak in _PEAKS:
        if name.lower() in kind:
            return peak
    return None
