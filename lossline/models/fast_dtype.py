"""The activation dtype that this machine multiplies fastest, for gin files: ``@fast_dtype()``."""

from __future__ import annotations

from pathlib import Path

import jax

from lossline.ops.cpu_matmul import has_bfloat16_instructions

# What Linux shows of GPUs (NVIDIA, AMD) and TPUs.
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*")
_DEVICES = Path("/dev")


def fast_dtype() -> str:
    """Return "float32" on a processor without bfloat16 instructions, else "bfloat16".

    Such a processor converts bfloat16 to float32 and back around every operation. Bind it with
    ``llama.activation_dtype = @fast_dtype()``. The result, not the question, is part of a run's
    identity: on a machine with another answer, the same files describe another run. So bind a dtype
    itself where one machine plans or compiles what another trains (``--submit``, ``compile``).

    No backend of JAX is started. An accelerator of the machine counts unless JAX_PLATFORMS names
    the processor first.
    """
    asked = _platforms().split(",")[0]
    accelerated = asked != "cpu" if asked else _sees_accelerator()
    return "bfloat16" if accelerated or has_bfloat16_instructions() else "float32"


def _platforms() -> str:
    asked = jax.config.jax_platforms  # type: ignore[attr-defined]  # JAX_PLATFORMS, or set in Python
    return asked or ""


def _sees_accelerator() -> bool:
    return any(next(_DEVICES.glob(pattern), None) is not None for pattern in _ACCELERATORS)
