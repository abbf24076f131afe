"""Rings of the TPU compiler: a product of a gathered array, computed one shard at a time.

With ``fsdp`` or ``tensor``, a product needs an array whose shards lie on several devices. The TPU
compiler either gathers the array and multiplies once, or passes the shards around a ring of devices
and multiplies each as it arrives ("windowed einsum", "collective matmul"). A ring hides the time on
the wires, but reads and writes the result once per hop. Both compute the same sums in another
order: the difference is rounding.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping

from lossline.errors import UserError

# Smallest size, in MiB, of an array that the compiler passes around a ring.
OPTION = "xla_jf_spmd_threshold_for_windowed_einsum_mib"
_NO_ARRAY = 1_000_000  # 1 TB: larger than every array of one device
VARIABLE = "LIBTPU_INIT_ARGS"


class Rings(enum.Enum):
    """Whether the compiler of a TPU may turn products of gathered arrays into rings."""

    AUTO = "auto"  # no, unless LIBTPU_INIT_ARGS decides it
    ON = "on"  # where the compiler chooses to
    OFF = "off"


def chosen_rings(
    rings: Rings, platform: str, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Return what decides about the rings of a step: "on", "off", or the user's own flag.

    "auto" is "off", see ``experiments/compilation/README.md``.

    Args:
        rings: the option.
        platform: platform of the devices; only "tpu" has rings.
        environment: a flag of the user in LIBTPU_INIT_ARGS stays as it is.

    Returns:
        "on", "off" or "LIBTPU_INIT_ARGS"; None for other platforms.

    Raises:
        UserError: the option is not "auto", and LIBTPU_INIT_ARGS sets the same flag.
    """
    if platform != "tpu":
        return None
    if OPTION in environment.get(VARIABLE, ""):
        if rings is not Rings.AUTO:
            raise UserError(
                f"mesh.rings = {rings.value!r}, but {VARIABLE} sets {OPTION} too. Remove one of "
                "them."
            )
        return VARIABLE
    return (Rings.OFF if rings is Rings.AUTO else rings).value


def ring_options(
    rings: Rings, platform: str, environment: Mapping[str, str] = os.environ
) -> dict[str, int] | None:
    """Return options for ``jax.jit(compiler_options=…)``; None for the compiler's defaults.

    Raises:
        UserError: as ``chosen_rings``.
    """
    off = chosen_rings(rings, platform, environment) == Rings.OFF.value
    return {OPTION: _NO_ARRAY} if off else None
