"""From the losses of several domains to the performance on one task.

Two ways, with one interface: ``fit`` takes losses (M, J) and performance (M,), both of checkpoints;
the fit predicts performance at losses (T, J). Nothing here knows a mixture: losses may be measured
or predicted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit, logit

from lossline.errors import UserError
from lossline.seeds import check_seed

Array = np.ndarray

# Starts of the sigmoid: slope of the mean loss, per nat.
_SLOPES = (0.5, 1.0, 3.0)
_FEWEST = 3  # checkpoints to fit
_B1, _B2, _EPSILON = 0.9, 0.999, 1e-8  # Adam's


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmoidFit:
    """A fitted ``PerformanceSigmoid``.

    Attributes:
        domains: names of the domains (J).
        chance: performance of guessing.
        center: mean losses of the fitted checkpoints (J,).
        level: logit of normalised performance at the center.
        slopes: fall of the logit per nat of each domain's loss (J,).
        scatter: root mean square of the residuals.
        emerged: whether any fitted checkpoint is above chance; if not, predictions are NaN.
    """

    domains: tuple[str, ...]
    chance: float
    center: Array
    level: float
    slopes: Array
    scatter: float
    emerged: bool

    def predict(self, losses: Any) -> Array:
        """Return the performance (T,) at losses (T, J)."""
        z = self.level - (np.atleast_2d(losses) - self.center) @ self.slopes
        found = self.chance + (1 - self.chance) * expit(z)
        return found if self.emerged else np.full(len(found), np.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        tree = dataclasses.asdict(self)
        return {
            **tree,
            "way": PerformanceSigmoid.name,
            "domains": list(self.domains),
            "center": self.center.tolist(),
            "slopes": self.slopes.tolist(),
        }


@dataclasses.dataclass(frozen=True)
class PerformanceSigmoid:
    """A linear combination of domain losses through a sigmoid that starts at chance. No luck in it.

    Domain losses are nearly collinear, so that a ridge pulls the slopes of all domains to a common
    one, itself free: without evidence to the contrary, the mean loss decides. The ridge was chosen
    on ``gadre_models.csv`` without its largest size: fitted up to 154M, judged at 412M. The mean
    relative error over 24 tasks was 13.4% there; 19.4% for a line in the mean loss; 19.7% for the
    median of the paper's network over 8 seeds, 14.9% with standardized losses.

    Attributes:
        ridge: strength of the ridge, per squared slope per nat.
    """

    ridge: float = 1e-3

    name = "sigmoid"
    equation = "P = c + (1 - c) / (1 + exp(-(b - sum_j k_j L_j)))"
    source = "this project"

    def fit(
        self,
        losses: Any,
        performance: Any,
        *,
        domains: Sequence[str],
        chance: float = 0.0,
        weights: Array | None = None,
    ) -> SigmoidFit:
        """Fit checkpoints with losses (M, J) and performance (M,) as fractions.

        Raises:
            UserError: fewer than three complete checkpoints, performance is in percent, or shapes
                disagree.
        """
        x, y, weight = _complete(losses, performance, domains, weights)
        if not 0 <= chance < 1:
            raise UserError(f"chance is {chance:g}; give a fraction from 0 to below 1.")
        center = np.average(x, axis=0, weights=weight)
        root, away = np.sqrt(weight), x - center
        count = len(domains)
        pull = np.sqrt(self.ridge) * (np.eye(count) - 1 / count)

        def residuals(theta: Array) -> Array:
            off = chance + (1 - chance) * expit(theta[0] - away @ theta[1:]) - y
            return np.concatenate([root * off, pull @ theta[1:]])

        def jacobian(theta: Array) -> Array:
            s = expit(theta[0] - away @ theta[1:])
            slope = (root * (1 - chance) * s * (1 - s))[:, None]
            above = np.hstack([slope, -slope * away])
            return np.vstack([above, np.hstack([np.zeros((count, 1)), pull])])

        share = np.clip((np.average(y, weights=weight) - chance) / (1 - chance), 0.02, 0.98)
        starts = [np.r_[logit(share), np.full(count, k / count)] for k in _SLOPES]
        ends = [least_squares(residuals, start, jac=jacobian) for start in starts]
        best = min(ends, key=lambda end: end.cost)
        off = residuals(best.x)[: len(y)]
        return SigmoidFit(
            domains=tuple(domains),
            chance=float(chance),
            center=center,
            level=float(best.x[0]),
            slopes=best.x[1:],
            scatter=float(np.sqrt((off**2).sum() / weight.sum())),
            emerged=bool((y > chance).any()),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkFit:
    """A fitted ``PerformanceNetwork``: one network per seed.

    Attributes:
        domains: names of the domains (J).
        hidden: weights (S, J, H) and biases (S, 1, H) of the hidden layer.
        output: weights (S, H, 1) and bias (S, 1, 1) of the output.
    """

    domains: tuple[str, ...]
    hidden: tuple[Array, Array]
    output: tuple[Array, Array]

    def spread(self, losses: Any) -> Array:
        """Return the performance (S, T) that each seed's network predicts at losses (T, J)."""
        x = np.atleast_2d(np.asarray(losses, float))
        (weights, bias), (out, level) = self.hidden, self.output
        return (np.maximum(x @ weights + bias, 0.0) @ out + level)[:, :, 0]

    def predict(self, losses: Any) -> Array:
        """Return the median over the seeds (T,)."""
        return np.median(self.spread(losses), axis=0)

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        return {
            "way": PerformanceNetwork.name,
            "domains": list(self.domains),
            "hidden": [array.tolist() for array in self.hidden],
            "output": [array.tolist() for array in self.output],
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerformanceNetwork:
    """FLP-M's network: domain losses, one hidden layer of 3 with ReLU, performance.

    The whole data is one batch. Adam's rate falls linearly to 0. Weight decay is an L2 term of the
    loss. What the paper leaves open is PyTorch's: uniform initial values within 1 / sqrt(inputs),
    raw losses as inputs. A hidden layer of 3 can die at the start, so that results depend on the
    seed: several are trained at once, and their spread is part of the result.

    Attributes:
        seeds: number of networks S, seeded from ``seed`` on.
        width: hidden units H.
        steps: updates.
        rate: Adam's first rate.
        decay: weight of the L2 term.
        seed: seed of the first network.
    """

    seeds: int = 8
    width: int = 3
    steps: int = 2000
    rate: float = 0.05
    decay: float = 0.01
    seed: int = 0

    name = "network"
    equation = "P = v . relu(W L + b) + c"
    source = "FLP-M (Chen et al., arXiv 2410.08527)"

    def fit(
        self,
        losses: Any,
        performance: Any,
        *,
        domains: Sequence[str],
        chance: float = 0.0,
        margin: float = 0.05,
        weights: Array | None = None,
    ) -> NetworkFit:
        """Fit checkpoints with losses (M, J) and performance (M,) as fractions.

        As in the paper, checkpoints below ``chance + margin`` are left out.

        Raises:
            UserError: fewer than three checkpoints are above ``chance + margin``, performance is
                in percent, or shapes disagree.
        """
        check_seed(self.seed, "seed")
        x, y, weight = _complete(losses, performance, domains, weights)
        above = y >= chance + margin
        if above.sum() < _FEWEST:
            raise UserError(
                f"not emerged: {int(above.sum())} checkpoints score at least {margin:g} above "
                f"chance ({chance:g}); the network needs {_FEWEST}. Add larger runs."
            )
        x, y, weight = x[above], y[above], weight[above]
        found = self._train(x, y, weight / weight.sum())
        return NetworkFit(
            domains=tuple(domains), hidden=(found[0], found[1]), output=(found[2], found[3])
        )

    def _start(self, inputs: int) -> list[Array]:
        """Return the initial values of all seeds; each seed's do not depend on the others."""
        shapes = [(inputs, self.width), (1, self.width), (self.width, 1), (1, 1)]
        reach = [inputs**-0.5, inputs**-0.5, self.width**-0.5, self.width**-0.5]
        rngs = [np.random.default_rng(self.seed + s) for s in range(self.seeds)]
        drawn = [
            [rng.uniform(-r, r, shape) for r, shape in zip(reach, shapes, strict=True)]
            for rng in rngs
        ]
        return [np.stack(parts) for parts in zip(*drawn, strict=True)]

    def _train(self, x: Array, y: Array, share: Array) -> list[Array]:
        """Return W, b, v, c of all seeds; ``share`` (M,) weights the checkpoints and sums to 1."""
        values = self._start(x.shape[1])
        first = [np.zeros_like(v) for v in values]
        second = [np.zeros_like(v) for v in values]
        for step in range(self.steps):
            rate = self.rate * (1 - step / self.steps)
            for i, slope in enumerate(self._gradient(values, x, y, share)):
                first[i] = _B1 * first[i] + (1 - _B1) * slope
                second[i] = _B2 * second[i] + (1 - _B2) * slope**2
                mean = first[i] / (1 - _B1 ** (step + 1))
                root = np.sqrt(second[i] / (1 - _B2 ** (step + 1)))
                values[i] = values[i] - rate * mean / (root + _EPSILON)
        return values

    def _gradient(self, values: list[Array], x: Array, y: Array, share: Array) -> list[Array]:
        """Return the gradients of the mean squared error plus decay / 2 times the squares."""
        W, b, v, c = values
        before = x @ W + b
        active = np.maximum(before, 0.0)
        pull = 2 * share[:, None] * (active @ v + c - y[:, None])
        back = (pull @ v.transpose(0, 2, 1)) * (before > 0)
        slopes = [
            x.T @ back,
            back.sum(axis=1, keepdims=True),
            active.transpose(0, 2, 1) @ pull,
            pull.sum(axis=1, keepdims=True),
        ]
        return [s + self.decay * value for s, value in zip(slopes, values, strict=True)]


def performance_from_dict(tree: Mapping[str, Any]) -> SigmoidFit | NetworkFit:
    """Return the fit that ``to_dict`` wrote.

    Raises:
        UserError: it is not one.
    """
    try:
        fields = {**tree, "domains": tuple(tree["domains"])}
        way = fields.pop("way")
        if way == PerformanceSigmoid.name:
            arrays = {name: np.array(fields[name], float) for name in ("center", "slopes")}
            return SigmoidFit(**{**fields, **arrays})
        if way == PerformanceNetwork.name:
            hidden, output = ([np.array(a, float) for a in fields[n]] for n in ("hidden", "output"))
            return NetworkFit(
                domains=fields["domains"],
                hidden=(hidden[0], hidden[1]),
                output=(output[0], output[1]),
            )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"not a saved performance fit: {error}. Fit and save it again.") from error
    raise UserError(f"saved performance fit: way {way!r} is unknown. Fit and save it again.")


def _complete(
    losses: Any, performance: Any, domains: Sequence[str], weights: Array | None
) -> tuple[Array, Array, Array]:
    """Return the checkpoints that have all losses, performance and a weight."""
    x, y = np.asarray(losses, float), np.asarray(performance, float)
    if x.shape != (len(y), len(domains)):
        raise UserError(
            f"losses have shape {x.shape}; {len(y)} checkpoints and {len(domains)} domains need "
            f"{(len(y), len(domains))}."
        )
    weight = np.ones(len(y)) if weights is None else np.asarray(weights, float)
    known = np.isfinite(x).all(axis=1) & np.isfinite(y) & (weight > 0)
    if known.sum() < _FEWEST:
        raise UserError(
            f"{int(known.sum())} checkpoints have performance and all of {len(domains)} domain "
            f"losses; {_FEWEST} are needed. Evaluate more, or leave domains out."
        )
    if (y[known] > 1).any() or (y[known] < 0).any():
        raise UserError(
            f"performance of {y[known].max():g}: accuracies must be fractions from 0 to 1. Divide "
            "percents by 100."
        )
    return x[known], y[known], weight[known]
