"""Which backend the traced code is for: the one place that decides between CPU, GPU and TPU forms
of an operation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import jax

from lossline.errors import UserError

BACKENDS = ("cpu", "gpu", "tpu")
_target: ContextVar[str | None] = ContextVar("lossline_target_backend", default=None)
_capability: ContextVar[tuple[int, int] | None] = ContextVar("lossline_capability", default=None)


def target_backend() -> str:
    """ "cpu", "gpu" or "tpu": the backend named by ``compiling_for``, else the one JAX runs on."""
    named = _target.get()
    if named is not None:
        return named
    backend = jax.default_backend()
    return "gpu" if backend in ("cuda", "rocm") else backend


def gpu_capability() -> tuple[int, int] | None:
    """Compute capability of the GPU at hand, (0, 0) of one that is not NVIDIA's; of one that is not
    here what ``compiling_for`` was told, None if nothing.
    """
    if _target.get() is not None:
        return _capability.get()
    major, _, minor = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


@contextmanager
def compiling_for(backend: str, *, capability: tuple[int, int] | None = None) -> Iterator[None]:
    """Traces for another backend than the one at hand (ahead-of-time compilation for a TPU slice
    on a laptop).

    Args:
        capability: of a GPU, its compute capability.
    """
    if backend not in BACKENDS:
        raise UserError(f"no backend {backend!r}: choose one of {', '.join(BACKENDS)}")
    tokens = _target.set(backend), _capability.set(capability)
    try:
        yield
    finally:
        _target.reset(tokens[0])
        _capability.reset(tokens[1])


def choose(operation: str, implementation: str, available: Mapping[str, tuple[str, ...]]) -> str:
    """Checks that ``implementation`` exists and that the target backend has it; returns it.

    Args:
        operation: its name, for the message.
        implementation: what was asked for.
        available: implementation -> backends that have it.

    Raises:
        UserError: naming what this backend has. There is no silent fall-back.
    """
    backend = target_backend()
    here = [name for name, backends in available.items() if backend in backends]
    if implementation not in available:
        raise UserError(
            f"{operation}: no implementation {implementation!r};"
            f" on {backend} choose one of {', '.join(here)}"
        )
    if implementation not in here:
        needs = " or ".join(available[implementation])
        raise UserError(
            f"{operation}: implementation {implementation!r} needs {needs}, this is {backend};"
            f" choose one of {', '.join(here)}"
        )
    return implementation
