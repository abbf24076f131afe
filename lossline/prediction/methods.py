"""Methods: direct laws, two stages (any first with any second), and the mean of several.

Each is a small named thing. ``METHODS`` lists those of the papers and ours; ``named`` also makes a
method out of a name like "gold/powers_of_scale/sigmoid": middle quantity, law of stage 1, form of
stage 2.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lossline.errors import UserError
from lossline.prediction import direct_forms, scale_forms, score_forms
from lossline.prediction.forms import FittedForm, Form, fit_form
from lossline.prediction.observations import Observations
from lossline.prediction.options import BelowChance
from lossline.prediction.points import Points, choose
from lossline.prediction.results import Outcome, Target

Array = np.ndarray


class Middle(enum.StrEnum):
    """The quantity between the two stages."""

    LOSS = "loss"  # mean loss on the validation sets
    DOMAINS = "domains"  # a law for each validation set; the mean of the predicted losses
    GOLD = "gold"  # loss of the task's gold answers


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a method does not predict a task.

    Attributes:
        outcome: the kind of reason.
        reason: the reason, for people.
    """

    outcome: Outcome
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One fitted stage.

    Attributes:
        name: "direct", "loss of SET", "score".
        fit: the fitted form.
    """

    name: str
    fit: FittedForm


class FittedMethod(Protocol):
    """A method fitted to one task."""

    @property
    def stages(self) -> Sequence[Stage]:
        """The fitted stages."""
        ...

    def predict(self, targets: Sequence[Target]) -> Array:
        """Return predictions (B, T): the fit to all data, then the resamples."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON tree."""
        ...


class Method(Protocol):
    """A way to predict a score from scale."""

    @property
    def name(self) -> str:
        """Name in results."""
        ...

    def fit(self, observations: Observations, weights: Array) -> FittedMethod | Refusal:
        """Fit to all checkpoints of one task and to resamples of their runs.

        Args:
            observations: the checkpoints.
            weights: weights of the runs (B, R); row 0 is all ones.
        """
        ...


def scale_of(targets: Sequence[Target]) -> dict[str, Array]:
    """Return the targets' columns by the names that forms use, each (T,)."""
    return {
        name: np.array([getattr(t, name) for t in targets], float)
        for name in ("params", "tokens", "flops")
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class DirectFit:
    """A fitted direct law."""

    stage: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The law."""
        return (self.stage,)

    def predict(self, targets: Sequence[Target]) -> Array:
        """Return predictions (B, T)."""
        inputs = scale_of(targets)
        families = getattr(self.stage.fit.form, "families", ())
        if families:
            inputs["family"] = _numbers_of(families, [t.group for t in targets])
        return self.stage.fit.predict(inputs)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON tree."""
        return {"kind": "direct", "stage": self.stage.fit.to_dict()}


def _numbers_of(families: Sequence[str], names: Sequence[str]) -> Array:
    """Return the number of each name among the families; -1 for a new family."""
    place = {family: number for number, family in enumerate(families)}
    return np.array([place.get(name, -1) for name in names])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Direct:
    """A law from scale to the metric, fitted to final checkpoints.

    Attributes:
        name: name in results.
        form: class of the law, or another maker of it.
        needs_chance: whether the law has a chance level.
    """

    name: str
    form: Callable[..., Form]
    needs_chance: bool = False

    def fit(self, observations: Observations, weights: Array) -> DirectFit | Refusal:
        """Fit the law (see ``Method``)."""
        if self.needs_chance and not np.isfinite(observations.chance):
            return no_chance(observations.task)
        chance = observations.chance if np.isfinite(observations.chance) else 0.0
        points = observations[observations.final]
        form = self.form() if observations.metric != "accuracy" else self.form(chance=chance)
        found = fit_form(
            form, points.inputs, points.value, points.run, weights, names=observations.names
        )
        if isinstance(found, str):
            return _too_few(found, observations)
        return DirectFit(stage=Stage(name="direct", fit=found))


def no_chance(task: str) -> Refusal:
    """Return the refusal of a task whose chance level is unknown."""
    return Refusal(
        Outcome.NO_INPUT,
        f"the accuracy of guessing on {task} is unknown: bind predict.chance = {{{task!r}: 0.25}} "
        "with its value",
    )


def _too_few(reason: str, observations: Observations) -> Refusal:
    """Return the refusal of a fit without enough points: not emerged, or too few runs."""
    normal = observations.metric == "accuracy" and np.isfinite(observations.chance)
    if normal and observations.final.sum() >= 4 and not observations.has_emerged:
        return not_emerged(observations)
    return Refusal(Outcome.TOO_FEW_RUNS, reason)


def not_emerged(observations: Observations) -> Refusal:
    """Return the refusal of a task that has not emerged."""
    return Refusal(
        Outcome.NOT_EMERGED,
        f"the three runs of most compute are not above chance ({observations.chance:.3g}) by 2 "
        "standard errors",
    )


def fit_method(
    method: Method, observations: Observations, weights: Array, *, below_chance: BelowChance
) -> FittedMethod | Refusal:
    """Fit a method to a task, unless the task has not emerged and that is to be stated."""
    if below_chance is BelowChance.STATE and not observations.has_emerged:
        return not_emerged(observations)
    return method.fit(observations, weights)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStageFit:
    """Fitted stages: laws of one or more losses, whose mean enters the score."""

    losses: tuple[Stage, ...]
    score: Stage

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The laws of the losses, then the score."""
        return (*self.losses, self.score)

    def loss(self, targets: Sequence[Target]) -> Array:
        """Return the predicted middle quantity (B, T)."""
        inputs = scale_of(targets)
        return np.mean([stage.fit.predict(inputs) for stage in self.losses], axis=0)

    def predict(self, targets: Sequence[Target]) -> Array:
        """Return predictions (B, T)."""
        return self.score.fit.predict({"loss": self.loss(targets)})

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON tree."""
        return {
            "kind": "two stages",
            "losses": {stage.name: stage.fit.to_dict() for stage in self.losses},
            "score": self.score.fit.to_dict(),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStage:
    """Scale to a loss, the loss to a score.

    A score without chance as its floor is not fitted to a task that has not emerged: it would
    extrapolate the noise.

    Attributes:
        name: name in results.
        law: stage 1, fitted to final checkpoints.
        score: class of stage 2.
        middle: the quantity between the stages.
        points: checkpoints of stage 2.
        emphasis: how much more low losses count in stage 2: a point's weight falls by e for
            1 / emphasis standard deviations of the loss.
        emergence: score above chance from which points count, for ``Points.IMPROVING``.
    """

    name: str
    law: Form
    score: type[Form]
    middle: Middle = Middle.LOSS
    points: Points = Points.SMOOTHED
    emphasis: float = 0.0
    emergence: float = 0.05

    def fit(self, observations: Observations, weights: Array) -> TwoStageFit | Refusal:
        """Fit both stages to the same resamples (see ``Method``)."""
        if not np.isfinite(observations.chance):
            return no_chance(observations.task)
        final = observations[observations.final]
        laws = []
        for name, column in self._losses(final).items():
            if not np.isfinite(column).any():
                return Refusal(Outcome.NO_INPUT, f"the table has no {self._missing(name)}")
            law = fit_form(
                self.law, final.inputs, column, final.run, weights, names=observations.names
            )
            if isinstance(law, str):
                return Refusal(Outcome.TOO_FEW_RUNS, law)
            laws.append(Stage(name=f"loss of {name}", fit=law))
        if not laws:
            return Refusal(Outcome.NO_INPUT, f"the table has no {self._missing('')}")
        if not (self.score.has_floor or observations.has_emerged):
            return not_emerged(observations)
        points = choose(observations, self.points, emergence=self.emergence)
        x = np.mean(list(self._losses(points).values()), axis=0)
        score = fit_form(
            self.score(chance=observations.chance),  # type: ignore[call-arg]
            {"loss": x},
            points.value,
            points.run,
            weights,
            point_weights=self._emphasis(x),
            names=observations.names,
        )
        if isinstance(score, str):
            if self.points is Points.IMPROVING and len(observations) >= 4:
                at_least = f"{observations.chance + self.emergence:.3g}"
                return Refusal(
                    Outcome.NOT_EMERGED,
                    f"{len(points)} checkpoints score at least {at_least}: too few for a line",
                )
            return _too_few(score, observations)
        return TwoStageFit(losses=tuple(laws), score=Stage(name="score", fit=score))

    def _losses(self, points: Observations) -> dict[str, Array]:
        if self.middle is Middle.DOMAINS:
            return dict(points.domains)
        return {str(self.middle): points.loss if self.middle is Middle.LOSS else points.gold}

    def _missing(self, name: str) -> str:
        if self.middle is Middle.GOLD:
            return "loss of the task's gold answers"
        return f"loss on {name}" if self.middle is Middle.DOMAINS and name else "validation loss"

    def _emphasis(self, x: Array) -> Array | None:
        if not self.emphasis or not np.isfinite(x).any():
            return None
        spread = np.nanstd(x)
        away = (x - np.nanmin(x)) / spread if spread > 0 else np.zeros(len(x))
        return np.where(np.isfinite(away), np.exp(-self.emphasis * np.nan_to_num(away)), 0.0)


_LEAST = 1e-4  # least score whose logarithm is averaged


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanFit:
    """Fitted methods whose predictions are averaged.

    Attributes:
        members: the methods.
        weights: weight of each in the mean.
        geometric: whether logarithms are averaged, of scores within [0.0001, 1].
    """

    members: tuple[FittedMethod, ...]
    weights: tuple[float, ...]
    geometric: bool = False

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of all members."""
        return tuple(stage for member in self.members for stage in member.stages)

    def predict(self, targets: Sequence[Target]) -> Array:
        """Return the mean prediction (B, T)."""
        parts = np.array([member.predict(targets) for member in self.members])
        if self.geometric:
            parts = np.log(np.clip(parts, _LEAST, 1.0))
        mean = np.average(parts, axis=0, weights=self.weights)
        return np.exp(mean) if self.geometric else mean

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON tree."""
        members = [member.to_dict() for member in self.members]
        weights = {"weights": list(self.weights), "geometric": self.geometric}
        return {"kind": "mean", "members": members, **weights}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyLaw:
    """The Gompertz law in N and D, with a level of its own per family."""

    name: str = "family"

    def fit(self, observations: Observations, weights: Array) -> DirectFit | Refusal:
        """Fit the law (see ``Method``)."""
        if not np.isfinite(observations.chance):
            return no_chance(observations.task)
        points = observations[observations.final]
        used = np.array([observations.families[r] for r in points.run])
        families = tuple(sorted({str(name) for name in used if name}))
        form = direct_forms.FamilyGompertz(chance=observations.chance, families=families)
        inputs: dict[str, Array] = dict(points.inputs)
        if families:
            inputs["family"] = _numbers_of(families, list(used))
        found = fit_form(form, inputs, points.value, points.run, weights, names=observations.names)
        if isinstance(found, str):
            return _too_few(found, observations)
        return DirectFit(stage=Stage(name="direct", fit=found))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FamilyMean:
    """Ours without losses: the geometric mean of ``FamilyLaw`` and FP, 1 to 4.

    The first is nearer for families that were seen; near 0 it can be several times too high, and FP
    too low. The weight is the best one at the farthest model of rolling cuts of public models up to
    2e22 FLOPs (experiments/published/family_weight.py).
    """

    name: str = "lossline"

    def fit(self, observations: Observations, weights: Array) -> FittedMethod | Refusal:
        """Fit both (see ``Method``)."""
        law = FamilyLaw().fit(observations, weights)
        common = Direct(name="fp", form=direct_forms.PowerOfScore).fit(observations, weights)
        if isinstance(law, Refusal) or isinstance(common, Refusal):
            return law
        return MeanFit(members=(law, common), weights=(0.2, 0.8), geometric=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consensus:
    """Ours: the mean of routes that err in different directions.

    Scale to the validation loss to the score; scale to the loss of the gold answers to the score;
    and, with half their weight, scale to the score directly. The first set of routes in which a
    route through a loss can be fitted is used: laws in N and D, or in C where all runs have one
    size. A table with families of models, or without losses, gets the law with a level per family
    (``FamilyMean``).

    Routes, weights and priors were chosen once, by the errors of rolling cuts of two sets of runs
    together (the OLMo ladder up to 1.3B; Gadre et al. up to 1.4B):
    experiments/published/scores/README.md.

    Attributes:
        name: name in results.
        sets: sets of methods, best first.
    """

    name: str
    sets: tuple[tuple[Method, ...], ...]

    def fit(self, observations: Observations, weights: Array) -> FittedMethod | Refusal:
        """Fit (see ``Method``)."""
        known = np.isfinite(observations.loss).any() or np.isfinite(observations.gold).any()
        if any(observations.families) or not known:
            return FamilyMean(name=self.name).fit(observations, weights)
        refusal: Refusal | None = None
        for members in self.sets:
            fits = [member.fit(observations, weights) for member in members]
            found = tuple(fit for fit in fits if not isinstance(fit, Refusal))
            if any(isinstance(fit, TwoStageFit) for fit in found):
                shares = tuple(0.5 if isinstance(fit, DirectFit) else 1.0 for fit in found)
                return MeanFit(members=found, weights=shares)
            # What the last, least demanding set lacks is the reason that helps.
            refusal = next(fit for fit in fits if isinstance(fit, Refusal))
        assert refusal is not None
        return refusal


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstThatFits:
    """The first of several methods that can be fitted.

    Attributes:
        name: name in results.
        members: the methods, best first.
    """

    name: str
    members: tuple[Method, ...]

    def fit(self, observations: Observations, weights: Array) -> FittedMethod | Refusal:
        """Fit (see ``Method``)."""
        found: FittedMethod | Refusal = Refusal(Outcome.NO_INPUT, "no method to fit")
        for member in self.members:
            found = member.fit(observations, weights)
            if not isinstance(found, Refusal):
                break
        return found


# Mean of the prior of the exponents of N and D in our laws of a loss (``Consensus``).
_EXPONENT = 0.3


def _methods() -> dict[str, Method]:
    loss, gold = Middle.LOSS, Middle.GOLD

    def ours(law: Form, direct: type[Form]) -> tuple[Method, ...]:
        """Return the three routes of the default method."""
        stages = {"law": law, "score": score_forms.AsymmetricSigmoid, "emphasis": 1.0}
        return (
            TwoStage(name="lossline", middle=loss, **stages),  # type: ignore[arg-type]
            TwoStage(name="lossline", middle=gold, **stages),  # type: ignore[arg-type]
            Direct(name="lossline", form=direct, needs_chance=True),
        )

    methods: list[Method] = [
        Direct(name="fp", form=direct_forms.PowerOfScore),
        Direct(name="gpt4", form=direct_forms.LogScore),
        Direct(name="direct", form=direct_forms.LogScoreAboveChance, needs_chance=True),
        Direct(name="direct_nd", form=direct_forms.LogScoreInScale, needs_chance=True),
        TwoStage(
            name="flp",
            law=scale_forms.PowerOfCompute(),
            score=score_forms.Line,
            points=Points.IMPROVING,
        ),
        TwoStage(
            name="llama3",
            law=scale_forms.PowerOfCompute(),
            score=score_forms.Sigmoid,
            middle=gold,
            points=Points.FINAL,
        ),
        TwoStage(
            name="ladder",
            law=scale_forms.PowersOfScale(),
            score=score_forms.Sigmoid,
            middle=gold,
        ),
        TwoStage(
            name="gadre",
            law=scale_forms.PowersOfScale(),
            score=score_forms.Exponential,
            points=Points.FINAL,
        ),
        Consensus(
            name="lossline",
            sets=(
                ours(scale_forms.PowersOfScale(exponent=_EXPONENT), direct_forms.LogScoreInScale),
                ours(scale_forms.FlooredPowerOfCompute(), direct_forms.LogScoreAboveChance),
            ),
        ),
    ]
    return {method.name: method for method in methods}


METHODS = _methods()
"""Methods for a score, by name. "lossline" is the default; the others are those of the papers."""

LOSS_METHODS: dict[str, Method] = {
    "fp": Direct(name="fp", form=scale_forms.PowerOfCompute),
    "floored": Direct(name="floored", form=scale_forms.FlooredPowerOfCompute),
    "power_nd": Direct(name="power_nd", form=scale_forms.PowerOfScale),
    "chinchilla": Direct(name="chinchilla", form=scale_forms.PowersOfScale),
    "lossline": FirstThatFits(
        name="lossline",
        members=(
            Direct(
                name="lossline",
                form=functools.partial(scale_forms.PowersOfScale, exponent=_EXPONENT),
            ),
            Direct(name="lossline", form=scale_forms.FlooredPowerOfCompute),
        ),
    ),
}
"""Methods for a loss, by name."""

DEFAULT = "lossline"


def named(names: Sequence[str], metric: str, emergence: float) -> dict[str, Method]:
    """Return methods by name; all of the metric if no name is given.

    Raises:
        UserError: a name is unknown.
    """
    known = METHODS if metric == "accuracy" else LOSS_METHODS
    methods = {
        name: known[name] if name in known else _made(name, known) for name in names or known
    }
    return {
        name: dataclasses.replace(method, emergence=emergence)
        if isinstance(method, TwoStage)
        else method
        for name, method in methods.items()
    }


_LAWS: dict[str, Form] = {
    form.name: form
    for form in (
        scale_forms.PowerOfCompute(),
        scale_forms.FlooredPowerOfCompute(),
        scale_forms.PowerOfScale(),
        scale_forms.PowersOfScale(),
    )
}
_SCORES: dict[str, type[Form]] = {
    form.name: form
    for form in (
        score_forms.Line,
        score_forms.Sigmoid,
        score_forms.ChanceSigmoid,
        score_forms.AsymmetricSigmoid,
        score_forms.Exponential,
    )
}


def _made(name: str, known: Mapping[str, Method]) -> Method:
    """Return a two-stage method out of "middle/law/score" or "middle/law/score/points"."""
    parts = name.split("/")
    if len(parts) == 3:
        parts.append(str(Points.SMOOTHED))
    choices = (tuple(Middle), tuple(_LAWS), tuple(_SCORES), tuple(Points))
    fits = len(parts) == 4 and all(p in c for p, c in zip(parts, choices, strict=True))
    if known is not METHODS or not fits:
        two_stages = (
            f"; or write middle/law/score or middle/law/score/points with a middle of "
            f"{', '.join(Middle)}; a law of {', '.join(_LAWS)}; a score of {', '.join(_SCORES)}; "
            f"points of {', '.join(Points)}"
        )
        raise UserError(
            f"predict.methods: {name!r} is unknown. Choose from {', '.join(known)}"
            f"{two_stages if known is METHODS else ''}."
        )
    middle, law, score, points = parts
    return TwoStage(
        name=name,
        law=_LAWS[law],
        score=_SCORES[score],
        middle=Middle(middle),
        points=Points(points),
    )
