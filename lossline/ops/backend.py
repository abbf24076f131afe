"""Target backend of traced code: the one place that chooses between CPU, GPU and TPU forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import jax

from lossline.errors import UserError

BACKENDS = ("cpu", "gpu", "tpu")
_target: ContextVar[str | None] = ContextVar("lossline_target_backend", default=None)
_capability: ContextVar[tuple[int, int] | None] = ContextVar("lossline_capability", default=None)


def target_backend() -> str:
    """Return the backend to trace for: "cpu", "gpu" or "tpu".

    It is the one given to ``compiling_for``, otherwise the one JAX runs on.
    """
    named = _target.get()
    if named is not None:
        return named
    backend = jax.default_backend()
    return "gpu" if backend in ("cuda", "rocm") else backend


def gpu_capability() -> tuple[int, int] | None:
    """Return the compute capability of the target GPU, for example (9, 0).

    A GPU that is not from NVIDIA has (0, 0). Inside ``compiling_for`` the result is the capability
    given there, or None.
    """
    if _target.get() is not None:
        return _capability.get()
    major, _, minor = str(getattr(jax.devices()[0], "compute_capability", "")).partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


@contextmanager
def compiling_for(backend: str, *, capability: tuple[int, int] | None = None) -> Iterator[None]:
    """Trace for another backend than the one JAX runs on.

    This allows ahead-of-time compilation, for example for a TPU slice on a laptop.

    Args:
        backend: "cpu", "gpu" or "tpu".
        capability: compute capability of the GPU, if known.

    Raises:
        UserError: the backend is unknown.
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
    """Return ``implementation`` if it exists and the target backend has it.

    Args:
        operation: name of the operation, for the message.
        implementation: name of the implementation.
        available: implementation -> backends that have it.

    Raises:
        UserError: names the implementations of this backend. Nothing falls back silently.
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
            f"{operation}: implementation {implementation!r} needs {needs}, but this is {backend};"
            f" choose one of {', '.join(here)}"
        )
    return implementation


def products_of(dtype: str) -> AbstractContextManager:
    """Return a context in which float32 products are computed in float32.

    Otherwise TPUs would round the factors to bfloat16 and GPUs to TensorFloat-32.
    """
    exact = dtype == "float32" and target_backend() != "cpu"
    return jax.default_matmul_precision("float32") if exact else nullcontext()
