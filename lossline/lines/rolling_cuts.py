"""Errors of lines at rolling cuts, and the calibration of intervals by them.

    lines = calibrated(lines, specimens, options)

Each cut is a half, a quarter, ... of the largest compute of a line's runs. The runs up to it are
fitted, without draws, and predict the later ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lossline.lines.calibration import Calibration, Pool, effective_scatter, learn, pool_of
from lossline.lines.extrapolation import split_at
from lossline.lines.fitting import Line, LineOptions, fit_line
from lossline.lines.specimens import Specimen
from lossline.tables.pairing import Pairs
from lossline.terminal import Say, silent
from lossline.workers import HERE, Workers

Array = np.ndarray

_COLUMNS = ["pool", "line", "cut", "error", "scatter", "beyond"]
# A cut leaves at least this many runs, and this share of them, to fit: lines of fewer runs say
# little about the line fitted to all. No published cut has many fewer.
_LEAST_RUNS, _LEAST_SHARE = 16, 0.5
# Lines of one pool that are fitted at cuts: more of them share the errors of their runs.
_MOST_LINES = 40
# Errors of one line at one cut that are used: they share their fit and count as a few in all.
_MOST_ERRORS = 500


def calibrated(
    lines: Sequence[Line], specimens: Sequence[Specimen], options: LineOptions, *,
    x_set: str | None = None, workers: Workers = HERE, say: Say = silent,
) -> list[Line]:  # fmt: skip
    """Return the lines with intervals calibrated by the table's own rolling cuts.

    Args:
        lines: fitted lines, in the order of ``specimens``.
        specimens: their specimens.
        options: how the lines were fitted.
        x_set: fit the lines from this set at cuts; all by default. Lines from other sets have the
            same runs, so that their errors say little more.
        workers: where to fit them.
        say: called with a line of progress.
    """
    among = [one for one in specimens if x_set is None or one.x_set == x_set]
    found = calibrations(among, options, workers=workers, say=say)
    return [
        dataclasses.replace(line, calibration=found.get(pool_of(line.kind), line.calibration))
        for line in lines
    ]


def calibrations(
    specimens: Sequence[Specimen], options: LineOptions | None = None, *,
    workers: Workers = HERE, say: Say = silent,
) -> dict[Pool, Calibration]:  # fmt: skip
    """Return the calibration of each pool among the specimens.

    Where these have too few cuts, it is that of the published sweeps.
    """
    errors = cut_errors(specimens, options, workers=workers, say=say)
    pools = sorted({pool_of(specimen.kind) for specimen in specimens})
    own = [(pool, errors[errors["pool"] == str(pool)]) for pool in pools]
    return dict(zip(pools, workers.map(_learned, own), strict=True))


def _learned(own: tuple[Pool, pd.DataFrame]) -> Calibration:
    return learn(*own)


def cut_errors(
    specimens: Sequence[Specimen], options: LineOptions | None = None, *,
    workers: Workers = HERE, say: Say = silent,
) -> pd.DataFrame:  # fmt: skip
    """Return the errors at rolling cuts, one row per held-out point.

    At most 40 lines of each pool are used, evenly spaced in their order, and at most 500 points of
    a line at a cut.

    Returns:
        Columns pool, line (position in ``specimens``), cut (its number; 1 is half of the largest
        compute), error (ln of measured over predicted), scatter (``effective_scatter`` of the
        line), beyond (extrapolated share of y).
    """
    options = dataclasses.replace(options or LineOptions(), resamples=0)
    chosen = _spaced([i for i, one in enumerate(specimens) if one.pairs is not None], specimens)
    errors_of_one = functools.partial(_errors_of, options=options)
    found = workers.map(
        errors_of_one, [specimens[i] for i in chosen], say=say, what="lines at rolling cuts"
    )
    parts = [
        part.assign(pool=str(pool_of(specimens[index].kind)), line=index)
        for index, of_one in zip(chosen, found, strict=True)
        for part in of_one
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=_COLUMNS)


def _spaced(indices: Sequence[int], specimens: Sequence[Specimen]) -> list[int]:
    """Return at most ``_MOST_LINES`` positions of each pool."""
    by_pool: dict[Pool, list[int]] = {}
    for index in indices:
        by_pool.setdefault(pool_of(specimens[index].kind), []).append(index)
    kept = []
    for members in by_pool.values():
        count = min(len(members), _MOST_LINES)
        places = np.unique(np.linspace(0, len(members) - 1, count).round().astype(int))
        kept += [members[place] for place in places]
    return sorted(kept)


def _errors_of(specimen: Specimen, options: LineOptions) -> list[pd.DataFrame]:
    """Return the errors of one line at each of its cuts."""
    assert specimen.pairs is not None
    pairs = _in_range(specimen.pairs, options)
    found = []
    for number, fitted, held in _cuts(pairs):
        line = fit_line(fitted, kind=specimen.kind, unit=specimen.unit, options=options)
        if line.parameters:
            rows = errors_of(line, held).assign(cut=number)
            found.append(_some(rows[np.isfinite(rows["error"])]))
    return found


def _some(errors: pd.DataFrame) -> pd.DataFrame:
    """Return at most ``_MOST_ERRORS`` errors, evenly spaced over their distance from the points."""
    if len(errors) <= _MOST_ERRORS:
        return errors
    order = np.lexsort((errors["error"], errors["beyond"]))
    return errors.iloc[order[np.linspace(0, len(errors) - 1, _MOST_ERRORS).round().astype(int)]]


def errors_of(line: Line, held: Pairs) -> pd.DataFrame:
    """Return columns error, scatter and beyond of the points that a line predicts."""
    predicted = line.predict(held.x, tokens_per_param=held.tokens / held.params)
    with np.errstate(all="ignore"):
        error = np.log(held.y / predicted)
    return pd.DataFrame(
        {
            "error": error,
            "scatter": effective_scatter(line.scatter, line.n_runs),
            "beyond": line.extrapolated(held.x),
        }
    )


def _in_range(pairs: Pairs, options: LineOptions) -> Pairs:
    """Return the pairs that a line is fitted to, with compute where it is known for all."""
    kept = pairs if options.max_x is None else pairs[pairs.x <= options.max_x]
    return dataclasses.replace(kept, flops=kept.compute)


def _cuts(pairs: Pairs) -> list[tuple[int, Pairs, Pairs]]:
    """Return number, points to fit and points to predict of each cut that leaves enough runs."""
    if not len(pairs) or not np.isfinite(pairs.flops).all():
        return []
    enough = max(_LEAST_RUNS, _LEAST_SHARE * pairs.n_runs)
    found: list[tuple[int, Pairs, Pairs]] = []
    for number in range(1, 64):
        fitted, held = split_at(pairs, pairs.flops.max() / 2**number)
        if fitted.n_runs < enough or len(np.unique(fitted.x)) < 3:
            return found
        if len(held) and (not found or len(fitted) < len(found[-1][1])):
            found.append((number, fitted, held))
    return found
