"""The question "translation": a set's loss at N, D from another set's sweep and the line between.

The target's loss is y = L(x), with the law of scale of the source for x. Two kinds of run help: one
of the source improves the law; one of the target at a scale that the source has adds a point to the
line. At another scale it needs a run of the source beside it: such a pair is one choice.

"Line" with two groups asks for the same line at a given x; then the law matters for the runs only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline.design.asked import DATA, Asked, Places, normal_quantile, of_groups
from lossline.design.beliefs import Belief, Moments
from lossline.design.candidates import model_asked, runs_of, shared_facts
from lossline.design.lines import calibrated_line, line_at, place_of
from lossline.design.plan import Candidate, DesignOptions, Interval, Target
from lossline.design.scale_law import ScaleLaw
from lossline.errors import UserError
from lossline.lines.fitting import Line
from lossline.lines.specimens import between_groups
from lossline.tables.schema import OWN_SET

Array = np.ndarray

_SAME_SCALE = 1e-3  # relative, as in ``tables.pairing``
_STEP = 1e-4  # relative step of x for the slope of the line


def ask_translation(
    rows: pd.DataFrame, target: Target, candidates: Sequence[Candidate], options: DesignOptions
) -> Asked:
    """Return the question with numbers.

    Args:
        rows: measured rows of a loss table.
        target: the question; groups are (source, target).
        candidates: runs of either group.
        options: options of the design.

    Raises:
        UserError: the line or the law cannot be fitted, or the target names neither a loss nor a
            model.
    """
    source, other = of_groups(rows, target.groups, count=2)
    x_set = target.x_set or OWN_SET
    y_set = target.y_set or x_set
    line = _line(source, other, x_set, y_set, target, options)
    law = ScaleLaw.of(source, x_set, target.unit, options)
    x, each = place_of(target, source, law)
    # Without a model, the law does not enter at q: any place serves.
    model = model_asked(runs_of(source), target) or candidates[0]
    choices = _choices(candidates, source, target.groups)
    places = Places.of([model, *candidates])
    of_law = law.at(places)
    losses = np.append(x, of_law.center[1:])
    ratios = np.append(each, places.tokens[1:] / places.params[1:])
    of_line = line_at(line, losses, ratios, options.level)
    slope = 0.0 if target.loss else _slope(line, x)
    belief = _belief(choices, target.groups, of_line, of_law, slope, options.roughness)
    center = float(of_line.center[0])
    half = normal_quantile(options.level) * belief.width
    at = f"{x_set} = {x:.4g}" if target.loss else f"N = {model.params:.3g}, D = {model.tokens:.3g}"
    return Asked(
        words=f"the loss on {y_set} of one more run of {target.groups[1]} at {at}, by the law of "
        f"{target.groups[0]} and the line of {line.n_runs} pairs",
        unit=target.unit.words,
        now=Interval(value=center, low=center * np.exp(-half), high=center * np.exp(half)),
        belief=belief,
        choices=choices,
    )


def _slope(line: Line, x: float) -> float:
    """Return d ln y / d ln x of a line."""
    ends = line.predict(np.array([x * (1 - _STEP), x * (1 + _STEP)]))
    return float(np.log(ends[1] / ends[0]) / (2 * _STEP))


def _line(
    source: pd.DataFrame, other: pd.DataFrame, x_set: str, y_set: str, target: Target,
    options: DesignOptions,
) -> Line:  # fmt: skip
    """Return the line from source to target.

    Raises:
        UserError: the pairs do not determine it.
    """
    both = between_groups(
        pd.concat([source, other]), vary=[DATA], x_set=x_set, y_set=y_set, group_by=[DATA],
        unit=target.unit,
    )  # fmt: skip
    (specimen,) = (one for one in both if one.group[DATA] == target.groups[0])
    line = calibrated_line(specimen, options)
    if not line.drawable:
        raise UserError(f"{' -> '.join(target.groups)}: no line: {line.message}.")
    return line


def _choices(
    candidates: Sequence[Candidate], source: pd.DataFrame, groups: Sequence[str]
) -> tuple[tuple[Candidate, ...], ...]:
    """Return the choices: a run of the source, one of the target at its side, or both.

    Only pairs of equal N and D tell about the line.

    Raises:
        UserError: a candidate belongs to neither group.
    """
    runs = runs_of(source)
    known = np.log(runs[["params", "tokens"]].to_numpy(float))
    facts = shared_facts(source)
    found = []
    for candidate in candidates:
        name = candidate.facts.get(DATA, "")
        if name not in groups:
            raise UserError(
                f"candidates: a run of {candidate.params:.3g} parameters has {DATA} = "
                f"{name or 'nothing'}. Give {' or '.join(groups)}."
            )
        away = np.abs(known - np.log([candidate.params, candidate.tokens])).max(axis=1)
        alone = name == groups[0] or away.min() < _SAME_SCALE
        partner = dataclasses.replace(candidate, facts=facts)
        found.append((candidate,) if alone else (partner, candidate))
    return tuple(found)


def _belief(
    choices: Sequence[Sequence[Candidate]], groups: Sequence[str], of_line: Moments,
    of_law: Moments, slope: float, roughness: float,
) -> Belief:  # fmt: skip
    """Return the belief of two independent parts, by their weights in q and in each choice.

    Args:
        choices: runs of each choice (M).
        groups: source and target.
        of_line: the line, relative, at q and the choices (1 + M).
        of_law: the law of the source there.
        slope: by how much q moves with the law, relative; 0 at a given x.
        roughness: of the errors of both forms.
    """
    last = np.array([runs[-1].facts[DATA] == groups[1] for runs in choices])
    both = np.array([len(runs) > 1 for runs in choices])
    # A pair measures y and x: the sum of both that q depends on.
    weights = (
        (of_line, np.append(1.0, np.where(last, 1.0, 0.0))),
        (of_law, np.append(slope, np.where(both, slope, np.where(last, 0.0, 1.0)))),
    )
    size = len(choices) + 1
    covariance, noise = np.zeros((size, size)), np.zeros(size)
    for part, weight in weights:
        covariance += np.outer(weight, weight) * part.covariance(roughness)
        noise += (weight * part.noise) ** 2
    return Belief(
        covariance=covariance,
        noise=noise[1:],
        floor=float(of_line.noise[0] ** 2),
        draws=float(len(of_line.draws)),
    )
