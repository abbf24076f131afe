"""The runs to choose from: a lattice of sizes and of tokens per parameter, and the model asked."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.design.plan import Candidate, Target
from lossline.errors import UserError
from lossline.tables.continued import fresh

Array = np.ndarray

_SIZES, _RATIOS = 8, 5  # of the table's own, at most
_LARGER = 3  # sizes beyond the table's largest
_SAME = 1.02  # sizes and ratios within this factor are one
_LEAST_STEP = 1.3  # from the largest size to the next


def runs_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the last checkpoint of each run that started fresh: run_id, params, tokens, flops.

    FLOPs are 6 N D where not recorded.
    """
    last = fresh(rows).sort_values("tokens").drop_duplicates("run_id", keep="last")
    frame = last[["run_id", "params", "tokens", "flops"]].astype(
        {"params": float, "tokens": float, "flops": float}
    )
    frame["flops"] = frame["flops"].fillna(6.0 * frame["params"] * frame["tokens"])
    frame = frame[np.isfinite(frame["params"]) & np.isfinite(frame["tokens"])]
    if frame.empty:
        raise UserError(
            "no run has params and tokens: there is no scale to place new runs at. Fill in both."
        )
    return frame


def shared_facts(rows: pd.DataFrame) -> dict[str, str]:
    """Return the facts that all runs share and that place a new one."""
    found = {}
    for name in ("architecture", "pretraining_data", "tokenizer"):
        values = rows[name].dropna().astype(str).unique()
        if len(values) == 1:
            found[name] = str(values[0])
    return found


def flops_ratio(runs: pd.DataFrame) -> float:
    """Return C / (6 N D) of the table's runs, their median: how the table counts FLOPs."""
    ratio = runs["flops"] / (6.0 * runs["params"] * runs["tokens"])
    return float(np.nanmedian(ratio))


def model_asked(runs: pd.DataFrame, target: Target) -> Candidate | None:
    """Return the model that the target names by N and D or by C; None if it names none.

    Raises:
        UserError: N without D, or D without N.
    """
    ratio = flops_ratio(runs)
    if target.params and target.tokens:
        flops = target.flops or 6.0 * ratio * target.params * target.tokens
        return Candidate(params=target.params, tokens=target.tokens, flops=flops)
    if target.params or target.tokens:
        raise UserError("target: params needs tokens, and tokens params. Give both, or flops.")
    if not target.flops:
        return None
    each = float((runs["tokens"] / runs["params"]).median())
    params = float(np.sqrt(target.flops / (6.0 * ratio * each)))
    return Candidate(params=params, tokens=each * params, flops=target.flops)


def lattice(runs: pd.DataFrame, facts: Sequence[Mapping[str, str]] = ({},)) -> list[Candidate]:
    """Return all runs of the lattice.

    Sizes: those of the table (8 of them at most) and the next larger ones by the table's own step.
    Tokens per parameter: those of the table (5 at most).

    Args:
        runs: ``runs_of`` the table.
        facts: facts of the candidates, one set for each kind of run.
    """
    sizes = _thinned(runs["params"].to_numpy(float), _SIZES)
    step = max(float(np.median(sizes[1:] / sizes[:-1])) if len(sizes) > 1 else 2.0, _LEAST_STEP)
    sizes = np.append(sizes, sizes[-1] * step ** np.arange(1, _LARGER + 1))
    ratios = _thinned((runs["tokens"] / runs["params"]).to_numpy(float), _RATIOS)
    ratio = flops_ratio(runs)
    found = [
        Candidate(params=n, tokens=n * r, flops=6.0 * ratio * n * n * r, facts=dict(place))
        for place, n, r in itertools.product(facts, map(float, sizes), map(float, ratios))
    ]
    least = float(runs["flops"].min()) / _SAME  # smaller runs obey other laws
    return [candidate for candidate in found if candidate.flops >= least]


def _thinned(values: Array, most: int) -> Array:
    """Return distinct values, sorted; of more than ``most``, those spread over the logarithm."""
    values = np.sort(values)
    values = values[np.append(True, values[1:] > _SAME * values[:-1])]
    if len(values) <= most:
        return values
    wanted = np.linspace(np.log(values[0]), np.log(values[-1]), most)
    nearest = np.abs(np.log(values)[None] - wanted[:, None]).argmin(axis=1)
    return values[np.unique(nearest)]
