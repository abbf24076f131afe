"""Pair losses (x, y) from a loss table: one checkpoint on two sets, or two runs of equal scale.

Train-to-test and validation lines pair a checkpoint with itself. Train-to-train and test-to-test
lines pair checkpoints of two groups. If these share no N and D, the second group is interpolated in
compute. ``Pairs.how`` records which.
"""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.run_order import run_numbers
from lossline.tables.continued import is_continued
from lossline.tables.schema import Unit

Array = np.ndarray

# Relative tolerance for equal N and D: sources print them with few digits.
_SAME_SCALE = 1e-3
_CHECKPOINT = ["run_id", "step"]
# Columns with the runs of a pair of two groups: the run of x, and the two runs y lies between.
_SOURCES = ("x_run", "y_run", "next_y_run")


class Pairing(enum.StrEnum):
    """How x and y were paired."""

    CHECKPOINT = "same checkpoint"
    EQUAL_SCALE = "equal (N, D)"
    INTERPOLATED = "interpolated in compute"
    NONE = "no pairs"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """Points of one line.

    Points are grouped by run, and runs are ordered by their data (``run_order``): the order of rows
    and the names of runs have no effect.

    Attributes:
        x: losses (M,), nats per token or bits per byte.
        y: losses (M,), nats per token or bits per byte.
        runs: run of each point (M,), the unit of resampling; a pair of runs is named "a | b".
        params: N of x's checkpoint (M,); NaN where not recorded.
        tokens: D of x's checkpoint (M,); NaN where not recorded.
        flops: C of x's checkpoint (M,); NaN where not recorded.
        how: how x and y were paired.
        left_out: checkpoints without a partner or without a loss.
        sources: columns (M,) of the runs on which each point's x and y were measured; empty if
            these are ``runs``, as for pairs of one checkpoint.
    """

    x: Array
    y: Array
    runs: Array
    params: Array
    tokens: Array
    flops: Array
    how: Pairing
    left_out: int = 0
    sources: tuple[Array, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, keep: Array) -> Pairs:
        """Return the points where a mask (M,) is True, or at positions, in their order."""
        columns = ("x", "y", "runs", "params", "tokens", "flops")
        kept = {name: getattr(self, name)[keep] for name in columns}
        sources = tuple(source[keep] for source in self.sources)
        return dataclasses.replace(self, **kept, sources=sources)

    def of_the_runs(self, points: Array) -> Array:
        """Return a mask (M,) of all points that share a run with the mask ``points``."""
        sources = self.sources or (self.runs,)
        runs = np.concatenate([source[points] for source in sources])
        return np.any([np.isin(source, runs) for source in sources], axis=0)

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(np.unique(self.runs))

    @property
    def run_numbers(self) -> Array:
        """Run of each point (M,), 0 to R - 1, numbered by the runs' data, not their names."""
        return run_numbers(self.runs, self.params, self.tokens, self.x, self.y)

    @property
    def compute(self) -> Array:
        """Compute of each point (M,): C, or 6 N D, or D if nothing else is known for all points."""
        compute = np.where(np.isfinite(self.flops), self.flops, 6.0 * self.params * self.tokens)
        return compute if np.isfinite(compute).all() else self.tokens

    @property
    def allocation(self) -> Array:
        """ln(D / N) (M,); NaN where unknown."""
        with np.errstate(all="ignore"):
            return np.log(self.tokens / self.params)


class Measurements:
    """Measured rows of each set of a table, as ``one_set`` returns them.

    What does not depend on the set is done once, for all of them.

    Args:
        table: a loss table.
        unit: "loss" or "bits_per_byte".
        only: the one set that is asked for; any by default.

    Raises:
        UserError: the unit is unknown.
    """

    def __init__(self, table: pd.DataFrame, unit: str, *, only: str | None = None) -> None:
        if unit not in tuple(Unit):
            raise UserError(f"unit {unit!r} is unknown; choose from {', '.join(Unit)}")
        measured = table["status"] == "ok"
        if only is not None:
            measured &= table["eval_set"] == only
        # Take these columns only: a table has dozens, and its text is slow to copy.
        frame = table.loc[measured, ["eval_set", *_CHECKPOINT, "params", "tokens", "flops"]]
        value = pd.to_numeric(table.loc[measured, unit], errors="coerce").astype(float)
        frame = frame.assign(value=value)
        frame[["tokens", "flops"]] = frame[["tokens", "flops"]].mask(is_continued(table)[measured])
        frame = frame[np.isfinite(value) & (value > 0)]
        self._repeated = frozenset(
            frame.loc[frame.duplicated(["eval_set", *_CHECKPOINT]).to_numpy(), "eval_set"]
        )
        self._places = frame.groupby("eval_set", sort=False).indices
        self._rows = frame.drop(columns="eval_set")

    def of_set(self, eval_set: str) -> pd.DataFrame:
        """Return the rows of a set; none if it has no measurement.

        Raises:
            UserError: a checkpoint has two different losses.
        """
        frame = self._rows.iloc[self._places.get(eval_set, [])]
        return _once(frame, eval_set) if eval_set in self._repeated else frame


def one_set(table: pd.DataFrame, eval_set: str, unit: str) -> pd.DataFrame:
    """Return the measured rows of one set: columns run_id, step, params, tokens, flops, value.

    A checkpoint that exists twice counts once, with its lower loss, if both losses agree to 1e-6.
    Tokens and FLOPs of a run that continued another are NaN: its own part is not its scale.

    Raises:
        UserError: the unit is unknown, or a checkpoint has two different losses.
    """
    return Measurements(table, unit, only=eval_set).of_set(eval_set)


def _once(frame: pd.DataFrame, eval_set: str) -> pd.DataFrame:
    """Return one row of each checkpoint, that of the lower loss, in their order."""
    copies = frame.groupby(_CHECKPOINT)["value"].agg(["min", "max"])
    torn = copies[copies["max"] > copies["min"] * (1 + 1e-6)]
    if len(torn):
        run, step = torn.index[0]
        raise UserError(
            f"eval_set {eval_set!r}: run {run!r}, step {step} exists twice with different losses "
            f"({torn['min'].iloc[0]:.6g}, {torn['max'].iloc[0]:.6g}); keep one of the two rows"
        )
    rising = frame["value"].to_numpy().argsort(kind="stable")
    lower = rising[~frame.iloc[rising].duplicated(_CHECKPOINT).to_numpy()]
    return frame.iloc[np.sort(lower)]


def _scale(frame: pd.DataFrame) -> pd.DataFrame:
    """Fill C = 6 N D where compute is not recorded."""
    flops = frame["flops"].astype(float)
    known = 6.0 * frame["params"].astype(float) * frame["tokens"].astype(float)
    return frame.assign(flops=flops.where(flops.notna(), known))


def _pairs(frame: pd.DataFrame, how: Pairing, left_out: int) -> Pairs:
    """Return the pairs of a frame, ordered by the runs' data."""
    numbers = {
        name: frame[name].to_numpy(dtype=float, na_value=np.nan)
        for name in ("x", "y", "params", "tokens", "flops")
    }
    runs = frame["run_id"].astype(str).to_numpy(dtype=str)
    how = how if len(frame) else Pairing.NONE
    sources = tuple(frame[name].to_numpy(dtype=str) for name in _SOURCES if name in frame)
    pairs = Pairs(runs=runs, how=how, left_out=left_out, sources=sources, **numbers)
    return pairs[np.lexsort((pairs.y, pairs.x, pairs.tokens, pairs.run_numbers))]


def pair_checkpoints(table: pd.DataFrame, x_set: str, y_set: str, *, unit: str = "loss") -> Pairs:
    """Pair losses of the same checkpoints on two sets."""
    return same_checkpoints(one_set(table, x_set, unit), one_set(table, y_set, unit))


def same_checkpoints(x: pd.DataFrame, y: pd.DataFrame) -> Pairs:
    """Pair the rows of two sets, as ``one_set`` returns them."""
    x = x.rename(columns={"value": "x"})
    if len(x) == len(y) and all(np.array_equal(x[name], y[name]) for name in _CHECKPOINT):
        both = x.assign(y=y["value"].to_numpy())
    else:
        y = y[[*_CHECKPOINT, "value"]].rename(columns={"value": "y"})
        both = x.merge(y, on=_CHECKPOINT, how="inner")
    return _pairs(_scale(both), Pairing.CHECKPOINT, len(x) + len(y) - 2 * len(both))


def pair_groups(
    x_table: pd.DataFrame, y_table: pd.DataFrame, x_set: str, y_set: str, *, unit: str = "loss"
) -> Pairs:
    """Pair losses of two groups of runs: x of the first on ``x_set``, y of the second on ``y_set``.

    Checkpoints of equal N and D are paired one to one. Several runs of one N and D are paired at
    random, with the same result for any names of runs and order of rows. If fewer than three pairs
    exist, frontiers are paired instead: runs of the first group with the lowest loss up to their
    compute, with the frontier of the second group, interpolated linearly in ln C and ln y, never
    beyond its ends.

    Raises:
        UserError: the unit is unknown, or a checkpoint has two different losses.
    """
    x = _scale(one_set(x_table, x_set, unit)).rename(columns={"value": "x"})
    y = _scale(one_set(y_table, y_set, unit)).rename(columns={"value": "y"})
    equal = _equal_scale(x, y)
    if len(equal) >= 3 or not len(x) or not len(y):
        return _pairs(equal, Pairing.EQUAL_SCALE, len(x) + len(y) - 2 * len(equal))
    inter = _interpolated(x, y)
    return _pairs(inter, Pairing.INTERPOLATED, len(x) - len(inter))


def _equal_scale(x: pd.DataFrame, y: pd.DataFrame) -> pd.DataFrame:
    """Return one-to-one partners by N and D."""
    x, y = _by_scale(x, "x"), _by_scale(y, "y")
    with np.errstate(all="ignore"):
        place_x, place_y = (np.log(f[["params", "tokens"]].to_numpy(float)) for f in (x, y))
    taken = np.zeros(len(y), bool)
    partner = np.full(len(x), -1)
    for i, place in enumerate(place_x):
        distance = np.abs(place_y - place).max(axis=1) if len(place_y) else np.empty(0)
        distance[taken | ~np.isfinite(distance)] = np.inf
        if len(distance) and distance.min() < _SAME_SCALE:
            partner[i] = int(distance.argmin())
            taken[partner[i]] = True
    has = partner >= 0
    mate = y.iloc[partner[has]].reset_index(drop=True)
    paired = x[has].reset_index(drop=True)
    return paired.assign(
        y=mate["y"],
        run_id=paired["run_id"] + " | " + mate["run_id"],
        x_run=paired["run_id"],
        y_run=mate["run_id"],
    )


def _by_scale(frame: pd.DataFrame, axis: str) -> pd.DataFrame:
    """Return rows sorted by N and D, runs of one N and D in random order.

    In the order of their losses the best runs would be paired with the best, and noise would look
    like a line.
    """
    number = run_numbers(frame["run_id"], frame["params"], frame["tokens"], frame[axis])
    lots = np.random.default_rng(ord(axis)).permutation(frame["run_id"].nunique())
    order = ["params", "tokens", "lot", "step"]
    return frame.assign(lot=lots[number]).sort_values(order).reset_index(drop=True)


def _interpolated(x: pd.DataFrame, y: pd.DataFrame) -> pd.DataFrame:
    """Return x on its frontier with y interpolated on the frontier of the second group."""
    frontier = y.dropna(subset=["flops"]).sort_values(["flops", "y"])
    frontier = frontier[frontier["y"] <= frontier["y"].cummin()].drop_duplicates("flops")
    x = x.dropna(subset=["flops"])
    if len(frontier) < 2 or not len(x):
        return x.iloc[:0].assign(y=pd.Series(dtype=float))
    compute = np.log(frontier["flops"].to_numpy(float))
    wanted = np.log(x["flops"].to_numpy(float))
    inside = (wanted >= compute[0]) & (wanted <= compute[-1])
    y_at = np.exp(np.interp(wanted, compute, np.log(frontier["y"].to_numpy(float))))
    run = frontier["run_id"].to_numpy(dtype=str)
    before = np.searchsorted(compute, wanted, side="right") - 1
    after = np.minimum(np.searchsorted(compute, wanted), len(run) - 1)
    x = x.assign(y=y_at, x_run=x["run_id"], y_run=run[before], next_y_run=run[after])
    # Only the frontier of x: else a run far from optimal would be paired with an optimal y.
    best = x[inside].sort_values(["flops", "x"])
    return best[best["x"] <= best["x"].cummin()].drop_duplicates("flops")
