"""Find losses in bits among losses in nats if no other column can show it.

Runs of one kind lie on a smooth surface of log loss over log N and log D. Losses in bits lie on the
same surface, higher by log(1/ln 2). The search compares a surface with this one step to a surface
without: a step exists if it leaves only a small part of the scatter. The step is a change of unit
only if its height is log(1/ln 2) everywhere, within the scatter, and only between runs of the same
kind: if the runs on the step differ from the others in a recorded fact (another optimizer), that
fact explains it.

The 154 sets of five published sweeps give no false alarm. With a tenth of the rows turned into
bits, these are found on 92%, 94%, 78% and 73% of the sets of Kempner, Chinchilla, LLMs on the Line
and OLMo's ladder, and on half of Gadre's, whose runs lie less well on a surface.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy import special  # scipy.stats takes half a second to import

Array = np.ndarray

_STEP = -math.log(math.log(2.0))
_LEFT = 0.35  # largest share of the scatter that may remain with a step
_SCATTER = 0.06  # largest scatter of log loss about a surface with the step
_CHANCE = 0.05  # p-value above which the step's height counts as log(1/ln 2)
_OFF = 0.015  # deviation of log loss that is too small to matter
_NEAR = 0.25  # largest distance from the step of a loss in bits, as a share of the step
_FACT = 0.05  # p-value below which a fact coincides with the step
_LEAST = 12  # smallest number of points


def in_bits(
    loss: Array,
    params: Array,
    tokens: Array,
    runs: Array | None = None,
    facts: pd.DataFrame | None = None,
) -> Array:
    """Return a mask (M,) of the losses that are in bits where others are in nats.

    All losses belong to one set and kind of run. The mask is empty if the data cannot show it.

    Args:
        loss: losses (M,), positive.
        params: N (M,), positive.
        tokens: D (M,), positive.
        runs: run of each loss (M,); None: each is a run of its own.
        facts: M rows of recorded facts of the runs.
    """
    nothing = np.zeros(len(loss), bool)
    if len(loss) < _LEAST:
        return nothing
    surface = _surface(np.log(params), np.log(tokens))
    height = np.log(loss)
    flat = height - surface @ (surface.T @ height)
    best, chosen, rest = np.inf, nothing, flat
    for above in (0.0, 0.5 * _STEP, -0.5 * _STEP):
        left, high = _step(surface, height, flat > above)
        scatter = float(np.sqrt(np.mean(left**2)))
        if scatter < best and high.any() and not high.all():
            best, chosen, rest = scatter, high, left
    if best >= min(_LEFT * float(np.sqrt(np.mean(flat**2))), _SCATTER):
        return nothing
    if facts is not None:
        alike = ~_explained(chosen, np.arange(len(loss)) if runs is None else runs, facts)
        if not alike.all():  # judge the others without them
            found = nothing.copy()
            of = None if runs is None else runs[alike]
            found[alike] = in_bits(loss[alike], params[alike], tokens[alike], of, facts[alike])
            return found
    if _is_another(surface, rest, chosen, np.log(params), np.log(tokens)):
        return nothing
    return chosen & (np.abs(rest) < _NEAR * _STEP)


def _explained(high: Array, runs: Array, facts: pd.DataFrame) -> Array:
    """Return a mask (M,) of the runs on the step whose facts explain it.

    A fact (or all facts together) explains a whole run if most runs with the same value are on the
    step, and if fact and step coincide more often than by chance.
    """
    whole = pd.Series(high).groupby(runs).transform("all").to_numpy()
    explained = np.zeros(len(high), bool)
    joint = facts.groupby(list(facts.columns), dropna=False).ngroup() if len(facts.columns) else []
    for levels in (*(facts[name] for name in facts.columns), joint):
        codes, names = pd.factorize(np.asarray(levels), use_na_sentinel=False)
        if len(names) < 2:
            continue
        count, above = np.bincount(codes), np.bincount(codes, weights=high)
        share = high.mean()
        differ = np.sum((above - count * share) ** 2 / (count * share * (1 - share)))
        if special.chdtrc(len(names) - 1, differ) < _FACT:
            explained |= whole & (above > 0.5 * count)[codes]
    return explained


def _is_another(surface: Array, rest: Array, high: Array, size: Array, data: Array) -> bool:
    """Return whether another cause than their unit explains the losses on the step.

    That is the case if their height, or its change with log N and log D, differs from log(1/ln 2)
    significantly and by more than ``_OFF``.
    """
    near = np.abs(rest) < _NEAR * _STEP
    by = np.stack([high, high * (size - size.mean()), high * (data - data.mean())], axis=1)[near]
    plain, both = surface[near], np.concatenate([surface[near], by], axis=1)
    _, _, rank, _ = np.linalg.lstsq(plain, rest[near])
    found, _, more, _ = np.linalg.lstsq(both, rest[near])
    free = near.sum() - more
    if more == rank or free < 1:
        return False
    left = np.sum((rest[near] - both @ found) ** 2)
    whole = np.sum((rest[near] - plain @ np.linalg.lstsq(plain, rest[near])[0]) ** 2)
    ratio = max(whole - left, 0.0) / (more - rank) / max(left / free, 1e-30)
    off = (by @ found[surface.shape[1] :])[high[near]]
    by_chance = special.fdtrc(more - rank, free, ratio) > _CHANCE
    return not by_chance and bool(np.sqrt(np.mean(off**2)) > _OFF)


def _surface(size: Array, data: Array) -> Array:
    """Return orthonormal columns (M, <= 6) of a quadratic in log N and log D."""
    size, data = size - size.mean(), data - data.mean()
    powers = [np.ones_like(size), size, data, size * size, size * data, data * data]
    columns = np.stack(powers, axis=1)
    length = np.maximum(np.linalg.norm(columns, axis=0), 1e-12)
    basis, values, _ = np.linalg.svd(columns / length, full_matrices=False)
    return basis[:, values > 1e-6 * values[0]]


def _step(surface: Array, height: Array, high: Array) -> tuple[Array, Array]:
    """Return residuals of surface and step, and a mask of the losses on the step.

    ``high`` is the first guess of this mask.
    """
    for _ in range(40):
        lowered = height - _STEP * high
        rest = height - surface @ (surface.T @ lowered)
        now = rest > 0.5 * _STEP
        if np.array_equal(now, high):
            break
        high = now
    return rest - _STEP * high, high
