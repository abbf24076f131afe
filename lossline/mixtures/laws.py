"""Laws from a mixture and scale to losses: what they share, and their fits.

A law gives the logarithm of a domain's loss as a function of the parameters theta, the shares, and
logarithms of N, D and C relative to those of the fitted runs. Domains are fitted apart from each
other, by Huber's loss on logarithms, from several seeded starts. A small ridge pulls parameters
that the runs do not determine to a center that the law names.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.mixtures.runs import MixtureRuns, checked_shares
from lossline.mixtures.solver import Ends, Rows, descend

Array = np.ndarray

# Starts per domain: the center, and seeded normal deviations from it. After the first iterations
# only the best ones go on.
_STARTS, _SPREAD, _SEED = 8, 0.5, 0
_FIRST, _KEPT = 25, 2
# Sizes within this share of each other are one size.
_SAME_SIZE = 0.01


@dataclasses.dataclass(frozen=True)
class Columns:
    """Inputs of M checkpoints, as laws need them.

    Attributes:
        shares: shares (M, K).
        logs: logarithms of the shares (M, K), 0 where the share is 0.
        n: log N relative to the reference (M,).
        t: log D relative to the reference (M,).
        c: log C relative to the reference (M,).
    """

    shares: Array
    logs: Array
    n: Array
    t: Array
    c: Array


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters of a law for K components.

    Attributes:
        names: names (P).
        center: first start, and what the ridge pulls to (P,).
        ridge: strength of the ridge (P,).
        doubt: standard deviation of the center (P,), used by intervals alone: for a parameter that
            the runs leave open, the interval must show that the center is a guess.
    """

    names: tuple[str, ...]
    center: Array
    ridge: Array
    doubt: Array


def parameters(
    *groups: tuple[str | tuple[str, ...], float, float]
    | tuple[str | tuple[str, ...], float, float, float],
) -> Parameters:
    """Return parameters from (name or names, center, ridge[, doubt])."""
    names: list[str] = []
    columns: list[list[float]] = [[], [], []]
    for group in groups:
        named = (group[0],) if isinstance(group[0], str) else group[0]
        names += named
        for column, value in zip(columns, (*group[1:], 0.0)[:3], strict=True):
            column += [float(value)] * len(named)
    return Parameters(tuple(names), *(np.array(column) for column in columns))


@dataclasses.dataclass(frozen=True)
class Law(abc.ABC):
    """A law; subclasses are frozen and have no state but their options.

    Attributes:
        name: short name.
        equation: the equation, as text.
        source: paper and equation.
        in_compute: whether C is an input (else N and D).
        zero_shares: whether a share may be 0.
    """

    name = ""
    equation = ""
    source = ""
    in_compute = False
    zero_shares = True

    @abc.abstractmethod
    def parameters(self, components: tuple[str, ...]) -> Parameters:
        """Return the parameters for these components."""

    @abc.abstractmethod
    def log_loss(self, theta: Array, columns: Columns) -> tuple[Array, Array]:
        """Return log loss (R, M) and its Jacobian (R, P, M) at theta (R, P)."""

    def usable(self, shares: Array) -> Array:
        """Return which mixtures (M,) the law is defined for."""
        return np.asarray(self.zero_shares | (shares > 0).all(axis=1))

    def prepared(self, shares: Array) -> Array:
        """Return the shares (M, K) as the law uses them."""
        return shares

    def fit(self, runs: MixtureRuns, *, weights: Array | None = None) -> LawFit:
        """Fit all domains.

        Args:
            runs: the runs.
            weights: weights of the checkpoints (M,).

        Raises:
            UserError: the law needs compute and none is known, or no run is left that it can use.
        """
        problem = Problem.of(self, runs)
        each = np.ones(len(runs)) if weights is None else np.asarray(weights, float)
        if each.shape != (len(runs),):
            raise UserError(f"weights have shape {each.shape}; give one for each of {len(runs)}.")
        center = problem.parameters.center
        rng = np.random.default_rng(_SEED)
        starts = center + _SPREAD * rng.standard_normal((_STARTS, len(center)))
        starts[0] = center
        count = len(runs.domains)
        theta, domain = np.tile(starts, (count, 1)), np.repeat(np.arange(count), _STARTS)
        first = problem.descend(theta, domain, each[None], iterations=_FIRST)
        order = first.objective.reshape(count, _STARTS).argsort(axis=1, kind="stable")
        kept = (order[:, :_KEPT] + _STARTS * np.arange(count)[:, None]).ravel()
        ends = problem.descend(first.theta[kept], domain[kept], each[None])
        best = ends.objective.reshape(count, _KEPT).argmin(axis=1) + _KEPT * np.arange(count)
        return problem.fit_at(ends.theta[best], ends.settled[best], each)


@dataclasses.dataclass(frozen=True)
class Scale:
    """Reference and range of the fitted runs.

    Attributes:
        params: geometric mean of N.
        tokens: geometric mean of D.
        flops_per_product: C / (N D), to compute C where it is not given; NaN if unknown.
        smallest: smallest N.
        largest: largest N.
    """

    params: float
    tokens: float
    flops_per_product: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, runs: MixtureRuns) -> Scale:
        """Return the scale of runs."""
        return cls(
            params=float(np.exp(np.log(runs.params).mean())),
            tokens=float(np.exp(np.log(runs.tokens).mean())),
            flops_per_product=runs.flops_per_product,
            smallest=float(runs.params.min()),
            largest=float(runs.params.max()),
        )

    @property
    def one_size(self) -> bool:
        """Whether all runs have one size, so that no law knows the effect of N."""
        return self.largest <= self.smallest * (1 + _SAME_SIZE)

    def reached(self, params: Array) -> Array:
        """Return which sizes a law of N can be used at: with one size only, that size."""
        off = np.abs(np.log(params / self.params)) > _SAME_SIZE
        return ~off if self.one_size else np.ones(np.shape(params), bool)

    def columns(self, shares: Array, params: Array, tokens: Array, flops: Array | None) -> Columns:
        """Return the inputs of checkpoints; without C, it is a multiple of N D."""
        factor = self.flops_per_product
        with np.errstate(divide="ignore"):
            c = np.log(params / self.params) + np.log(tokens / self.tokens)
            if flops is not None and np.isfinite(factor):
                c = np.log(flops / (factor * self.params * self.tokens))
            logs = np.where(shares > 0, np.log(np.where(shares > 0, shares, 1.0)), 0.0)
        return Columns(shares, logs, np.log(params / self.params), np.log(tokens / self.tokens), c)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A law and the runs it is fitted to, ready for the solver."""

    law: Law
    runs: MixtureRuns
    scale: Scale
    columns: Columns
    parameters: Parameters
    offset: Array  # mean log loss of each domain (J,)
    target: Array  # log loss less the offset (J, M)
    measured: Array  # 1 where there is a loss to fit, else 0 (J, M)

    @classmethod
    def of(cls, law: Law, runs: MixtureRuns) -> Problem:
        """Return the problem.

        Raises:
            UserError: the law needs compute and none is known, or no loss is left to fit.
        """
        if law.in_compute and not np.isfinite(runs.flops).all():
            raise UserError(
                f"{law.name}: no compute: {int((~np.isfinite(runs.flops)).sum())} of {len(runs)} "
                "checkpoints have no flops. Fill the column, or use a law of N and D."
            )
        scale = Scale.of(runs)
        shares = law.prepared(runs.shares)
        losses = runs.losses.T
        measured = np.isfinite(losses) & (losses > 0) & law.usable(shares)
        if not measured.any(axis=1).all():
            name = runs.domains[int(np.flatnonzero(~measured.any(axis=1))[0])]
            why = "has no loss" if law.zero_shares else "has no loss of a run without a zero share"
            raise UserError(
                f"{law.name}: domain {name!r} {why}. Leave the domain out, or use another law."
            )
        logs = np.log(np.where(measured, losses, 1.0))
        offset = logs.sum(axis=1) / measured.sum(axis=1)
        return cls(
            law=law,
            runs=runs,
            scale=scale,
            columns=scale.columns(shares, runs.params, runs.tokens, runs.flops),
            parameters=law.parameters(runs.components),
            offset=offset,
            target=np.where(measured, logs - offset[:, None], 0.0),
            measured=measured.astype(float),
        )

    def descend(
        self,
        theta: Array,
        domain: Array,
        weights: Array,
        *,
        weighting: Array | None = None,
        center: Array | None = None,
        iterations: int = 200,
        tolerance: float = 1e-9,
    ) -> Ends:
        """Descend from theta (R, P) of domains (R,) under weightings (V, M) of the checkpoints."""
        rows = Rows(
            model=lambda values: self.law.log_loss(values, self.columns),
            target=self.target,
            domain=domain,
            weights=weights[:, None, :] * self.measured,
            weighting=np.zeros(len(theta), int) if weighting is None else weighting,
            center=np.broadcast_to(
                self.parameters.center if center is None else center, theta.shape
            ),
            ridge=self.parameters.ridge,
        )
        return descend(rows, theta, iterations=iterations, tolerance=tolerance)

    def fit_at(self, theta: Array, settled: Array, weights: Array) -> LawFit:
        """Return the fit with parameters theta (J, P)."""
        value, _ = self.law.log_loss(theta, self.columns)
        weight = self.measured * weights
        off = np.where(weight > 0, value - self.target, 0.0)
        spread = np.sqrt((weight * off**2).sum(axis=1) / weight.sum(axis=1))
        return LawFit(
            law=self.law,
            components=self.runs.components,
            domains=self.runs.domains,
            theta=theta,
            offset=self.offset,
            scale=self.scale,
            scatter=spread,
            converged=tuple(bool(ok) for ok in settled),
            notes=(*self._left_out(), *unidentified(self.runs)),
        )

    def _left_out(self) -> tuple[str, ...]:
        if self.law.zero_shares:
            return ()
        count = int((~self.law.usable(self.law.prepared(self.runs.shares))).sum())
        if not count:
            return ()
        return (
            f"{count} of {len(self.runs)} checkpoints left out: {self.law.name} is not defined "
            "for a share of 0",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawFit:
    """A law with its parameters for each domain.

    Attributes:
        law: the law.
        components: names of the components (K).
        domains: names of the domains (J).
        theta: parameters (J, P), in the order of ``law.parameters``.
        offset: mean log loss of the fitted checkpoints (J,), which the law's log loss is added to.
        scale: reference and range of the fitted runs.
        scatter: root mean square of the log-residuals (J,).
        converged: whether the solver reached an optimum of each domain (J).
        notes: what the runs do not determine, and checkpoints that were left out.
    """

    law: Law
    components: tuple[str, ...]
    domains: tuple[str, ...]
    theta: Array
    offset: Array
    scale: Scale
    scatter: Array
    converged: tuple[bool, ...]
    notes: tuple[str, ...] = ()

    def predict(
        self, shares: Array, *, params: Any, tokens: Any, flops: Any | None = None
    ) -> Array:
        """Return losses (T, J).

        They are NaN at a mixture that the law is not defined for (a share of 0), and at another
        size if all fitted runs have one size.

        Args:
            shares: shares (T, K) or (K,), in the order of ``components``.
            params: N (T,), or one for all.
            tokens: D (T,), or one for all.
            flops: C (T,), or one for all; None: the fitted runs' C / (N D) times N D.

        Raises:
            UserError: shares do not sum to 1, or have another shape.
        """
        return predictions(self, self.theta[None], shares, params, tokens, flops)[0]

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON values."""
        return {
            "law": self.law.name,
            "options": dataclasses.asdict(self.law),
            "components": list(self.components),
            "domains": list(self.domains),
            "parameters": list(self.law.parameters(self.components).names),
            "theta": self.theta.tolist(),
            "offset": self.offset.tolist(),
            "scale": {k: _number(v) for k, v in dataclasses.asdict(self.scale).items()},
            "scatter": self.scatter.tolist(),
            "converged": list(self.converged),
            "notes": list(self.notes),
        }


def predictions(
    fit: LawFit, theta: Array, shares: Any, params: Any, tokens: Any, flops: Any | None = None
) -> Array:
    """Return losses (B, T, J) for parameters theta (B, J, P); arguments as ``LawFit.predict``."""
    mixtures = fit.law.prepared(checked_shares(shares, fit.components, "shares to predict"))
    n, t = np.asarray(params, float), np.asarray(tokens, float)
    (count,) = np.broadcast_shapes((len(mixtures),), n.shape, t.shape)
    mixtures = np.broadcast_to(mixtures, (count, mixtures.shape[1]))
    n, t = np.broadcast_to(n, count), np.broadcast_to(t, count)
    compute = None if flops is None else np.broadcast_to(np.asarray(flops, float), count)
    columns = fit.scale.columns(mixtures, n, t, compute)
    defined = fit.law.usable(mixtures)
    if not fit.law.in_compute:
        defined = defined & fit.scale.reached(n)
    with np.errstate(all="ignore"):
        value, _ = fit.law.log_loss(theta.reshape(-1, theta.shape[-1]), columns)
    losses = np.exp(value.reshape(*theta.shape[:2], -1) + fit.offset[:, None])
    return np.where(defined[:, None], losses.transpose(0, 2, 1), np.nan)


def unidentified(runs: MixtureRuns) -> tuple[str, ...]:
    """Return one sentence for each effect that the runs cannot determine."""
    found = []
    mixtures = np.unique(runs.shares, axis=0)
    names, count = runs.components, len(runs.components)
    pairs = [
        (i, j)
        for i in range(count)
        for j in range(i)
        if np.linalg.matrix_rank(mixtures[:, [i, j]], tol=1e-6) < 2 and mixtures[:, [i, j]].any()
    ]
    for i, j in pairs if len(mixtures) > 1 else ():
        found.append(
            f"{names[j]} and {names[i]} are in one ratio in all mixtures: their separate effects "
            "are not identified"
        )
    if len(mixtures) == 1:
        found.append("all runs have one mixture: no effect of the shares is identified")
    elif len(mixtures) < count:
        found.append(
            f"{len(mixtures)} mixtures of {count} components: not all effects of the shares are "
            "identified"
        )
    if Scale.of(runs).one_size:
        found.append("all runs have one size: the effect of N is not identified")
    ratio = np.log(runs.tokens / runs.params)
    if not Scale.of(runs).one_size and np.ptp(ratio) < _SAME_SIZE:
        found.append("all checkpoints have one D / N: effects of N and D are not told apart")
    return tuple(found)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
