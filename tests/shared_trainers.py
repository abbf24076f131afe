"""One trainer for all trainings of equal model, objective, optimizer and mesh in a process."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from lossline.training.step import Trainer

Known = dict[tuple[Mesh, str], Trainer]


def sharing(known: Known) -> Callable[..., Trainer]:
    """Return a stand-in for ``Trainer`` that gives an equal trainer of ``known`` if there is one.

    Tracing and lowering are most of a training of a few tiny steps.
    """

    def shared(*, mesh: Mesh, **parts: Any) -> Trainer:
        key = mesh, repr(parts)
        if key not in known:
            known[key] = Trainer(mesh=mesh, **parts)
        return known[key]

    return shared
