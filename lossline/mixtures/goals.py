"""What the best mixture is best for: a domain, a task, or several with weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lossline.errors import UserError
from lossline.mixtures.runs import MixtureFit, unknown_name

Array = np.ndarray

Goal = Callable[[Array], Array]  # value to minimize (T,) at shares (T, K)


class Performance(Protocol):
    """Performance from domain losses, as in ``lossline.mixtures.performance``."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains (J)."""

    def predict(self, losses: Any) -> Array:
        """Return the performance (T,) at losses (T, J)."""


def loss_goal(
    fit: MixtureFit, domains: Mapping[str, float], *, params: float, tokens: float
) -> Goal:
    """Return the weighted mean of predicted domain losses as a goal.

    Args:
        fit: a fitted law.
        domains: weight of each domain; a single target has one entry.
        params: N of the training that the mixture is for.
        tokens: its D.

    Raises:
        UserError: a domain is unknown, or no weight is above 0.
    """
    weights = _weights(fit.domains, domains)
    return lambda shares: fit.predict(shares, params=params, tokens=tokens) @ weights


def task_goal(
    fit: MixtureFit,
    tasks: Mapping[str, tuple[Performance, float]],
    *,
    params: float,
    tokens: float,
) -> Goal:
    """Return minus the weighted mean of predicted performance as a goal.

    Args:
        fit: a fitted law of domain losses.
        tasks: performance fit (``lossline.mixtures.performance``) and weight of each task; its
            domains are matched by name.
        params: N of the training that the mixture is for.
        tokens: its D.

    Raises:
        UserError: a performance fit needs a domain that the law does not have, or no weight is
            above 0.
    """
    for task, (performance, _) in tasks.items():
        for name in performance.domains:
            if name not in fit.domains:
                raise unknown_name(f"task {task!r}: domain", name, fit.domains)
    weights = _weights(tuple(tasks), {task: weight for task, (_, weight) in tasks.items()})
    places = {t: [fit.domains.index(n) for n in p.domains] for t, (p, _) in tasks.items()}

    def goal(shares: Array) -> Array:
        losses = fit.predict(shares, params=params, tokens=tokens)
        scores = [p.predict(losses[:, places[task]]) for task, (p, _) in tasks.items()]
        return -np.stack(scores, axis=1) @ weights

    return goal


def _weights(names: Sequence[str], chosen: Mapping[str, float]) -> Array:
    """Return weights (J,) that sum to 1."""
    for name in chosen:
        if name not in names:
            raise unknown_name("target", name, names)
    weights = np.array([chosen.get(name, 0.0) for name in names], float)
    if not (weights >= 0).all() or not weights.sum() > 0:
        raise UserError("targets: weights must not be negative, and one must be above 0.")
    return weights / weights.sum()
