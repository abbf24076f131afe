"""Section of mixtures of SlimPajama's seven sources: losses of larger models on unseen mixtures.

Fitted: checkpoints of 122M and 310M parameters at mixtures that no larger model has. Held out: all
checkpoints of larger models. N is ``model_size``, C = 6 N D. The section prints the backtests of
every law inside the fitted rows as well: the form of ours and its ridge were chosen by them alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from records import Comparison, Section
from scipy import stats

from lossline.errors import UserError
from lossline.mixtures.catalogue import DEFAULT, LAWS
from lossline.mixtures.laws import Law, LawFit
from lossline.mixtures.resampling import Resampled, resample
from lossline.mixtures.runs import MixtureRuns

Array = np.ndarray

FILE = "mixtures_slimpajama.csv"
OURS = "ours"
# Sizes up to this one are fitted.
FITTED_UP_TO = 3.2e8
# FLP-M (arXiv 2410.08527), Table 3: mean relative error of domain losses, two sources.
_PUBLISHED = {"M1": "2.9%", "M2": "2.6%", "M3": "1.7%", "M4": "1.4%"}
_LEVELS = (0.5, 0.8, 0.9)
_RESAMPLES = 100
_FOLDS = 4
_SAME_SHARE = 4  # decimals to which two mixtures are one


def sections(folder: Path) -> Iterable[Section]:
    """Yield the section.

    Raises:
        UserError: columns are missing, or nothing is left to fit or to predict.
    """
    runs = read(folder / FILE)
    small = runs.params <= FITTED_UP_TO
    mixtures = mixture_numbers(runs.shares)
    fitted, held = runs[small & ~np.isin(mixtures, mixtures[~small])], runs[~small]
    if not len(fitted) or not len(held):
        what = "fit: larger models have all mixtures" if len(held) else "predict: no larger model"
        raise UserError(f"{FILE}: nothing to {what}. Give models of both kinds.")
    laws = {OURS if law is DEFAULT else name: law() for name, law in LAWS.items()}
    fits = {name: law.fit(fitted) for name, law in laws.items()}
    found = resample(laws[OURS], fitted, fit=fits[OURS], resamples=_RESAMPLES)
    tables = {name: points_of(name, fit, held) for name, fit in fits.items()}
    tables[OURS] = with_intervals(tables[OURS], found, held)
    points = pd.concat(tables.values(), ignore_index=True)
    folds = unseen_mixtures(laws[OURS], fitted)
    rows = [*_error_rows(points, held), *_rank_rows(points)]
    rows += [_backtest_row(what, part, laws, fitted) for what, part in backtests(fitted)]
    yield Section(
        title=f"SlimPajama mixtures: {_sizes(held)} from {_sizes(fitted)}, "
        f"{len(np.unique(mixture_numbers(fitted.shares)))} mixtures fitted, "
        f"{len(np.unique(mixture_numbers(held.shares)))} others predicted",
        rows=rows,
        notes=[
            "Published: FLP-M's own data, two sources. Shares are at least 0.02 here.",
            f"Ours: {laws[OURS].equation}",
            f"90% intervals hold {_inside(tables[OURS]):.1f}% of the held-out losses",
            *sorted({note for fit in fits.values() for note in fit.notes}),
        ],
        tables={"slimpajama": points, "slimpajama_folds": folds},
    )


def read(path: Path) -> MixtureRuns:
    """Return the checkpoints of the file.

    Raises:
        UserError: columns are missing.
    """
    table = pd.read_csv(path)
    shares = [name for name in table if name.startswith("weight_")]
    losses = [name for name in table if name.endswith("_loss")]
    for name, there in (
        ("weight_<source>", shares),
        ("<domain>_loss", losses),
        ("model_size", "model_size" in table),
        ("n_tokens", "n_tokens" in table),
    ):
        if not there:
            raise UserError(f"{path.name}: column {name} is missing")
    # Checkpoints of one model share its size and mixture.
    keys = table[["model_size", *shares]].round(_SAME_SHARE).astype(str)
    return MixtureRuns(
        components=tuple(name.removeprefix("weight_") for name in shares),
        domains=tuple(name.removesuffix("_loss") for name in losses),
        shares=table[shares].to_numpy(float),
        params=table["model_size"].to_numpy(float),
        tokens=table["n_tokens"].to_numpy(float),
        flops=6.0 * table["model_size"].to_numpy(float) * table["n_tokens"].to_numpy(float),
        losses=table[losses].to_numpy(float),
        runs=keys.agg(" ".join, axis=1).to_numpy(),
    )


def mixture_numbers(shares: Array) -> Array:
    """Return a number for each row's mixture (M,); rows with equal shares have one number."""
    return np.unique(shares.round(_SAME_SHARE), axis=0, return_inverse=True)[1].ravel()


def predicted(fit: LawFit, runs: MixtureRuns) -> Array:
    """Return the predicted losses (M, J) of checkpoints."""
    return fit.predict(runs.shares, params=runs.params, tokens=runs.tokens, flops=runs.flops)


def points_of(method: str, fit: LawFit, runs: MixtureRuns) -> pd.DataFrame:
    """Return every single prediction of a law: one row per checkpoint and domain."""
    domains = len(runs.domains)
    values, actual = predicted(fit, runs).ravel(), runs.losses.ravel()
    return pd.DataFrame(
        {
            "method": method,
            "run": np.repeat(runs.runs, domains),
            "mixture": np.repeat(mixture_numbers(runs.shares), domains),
            "params": np.repeat(runs.params, domains),
            "tokens": np.repeat(runs.tokens, domains),
            "domain": np.tile(runs.domains, len(runs)),
            "actual": actual,
            "predicted": values,
            "relative_error": values / actual - 1,
        }
    )


def with_intervals(points: pd.DataFrame, found: Resampled, runs: MixtureRuns) -> pd.DataFrame:
    """Return predictions with their intervals."""
    ends = {}
    for level in _LEVELS:
        low, high = found.interval(
            runs.shares, params=runs.params, tokens=runs.tokens, flops=runs.flops, level=level
        )
        ends |= {
            f"low_{round(100 * level)}": low.ravel(),
            f"high_{round(100 * level)}": high.ravel(),
        }
    return points.assign(**ends)


def unseen_mixtures(law: Law, runs: MixtureRuns) -> pd.DataFrame:
    """Return predictions with intervals of mixtures that were left out, each of them once."""
    parts = []
    for fold in _folds(runs):
        found = resample(law, runs[~fold], resamples=_RESAMPLES)
        parts.append(with_intervals(points_of(OURS, found.fit, runs[fold]), found, runs[fold]))
    return pd.concat(parts, ignore_index=True)


def _folds(runs: MixtureRuns) -> list[Array]:
    """Return masks (M,) of the checkpoints to leave out, by mixture."""
    number = mixture_numbers(runs.shares)
    order = np.random.default_rng(3).permutation(number.max() + 1)
    return [np.isin(number, part) for part in np.array_split(order, _FOLDS)]


def backtests(runs: MixtureRuns) -> Iterator[tuple[str, list[tuple[Array, Array]]]]:
    """Yield (name, pairs of masks: fitted, predicted) of the backtests that chose our form."""
    early = runs.tokens < 0.45 * runs.tokens.max()
    late = runs.tokens > 0.75 * runs.tokens.max()
    large = runs.params > 1.01 * runs.params.min()
    folds = _folds(runs)
    if early.any() and late.any():
        yield "late tokens from early ones", [(early, late)]
        both = [(early & ~fold, late & fold) for fold in folds]
        yield "late tokens of unseen mixtures", both
    yield "unseen mixtures", [(~fold, fold) for fold in folds]
    if large.any():
        yield (
            "larger size, a quarter of its mixtures fitted",
            [(~large | fold, large & ~fold) for fold in folds],
        )


def _backtest_row(
    what: str, parts: list[tuple[Array, Array]], laws: dict[str, Law], runs: MixtureRuns
) -> Comparison:
    errors: dict[str, list[float]] = {name: [] for name in laws}
    for within, beyond in parts:
        for name, law in laws.items():
            away = predicted(law.fit(runs[within]), runs[beyond]) / runs[beyond].losses - 1
            errors[name].append(float(np.nanmean(np.abs(away))))
    texts = {name: f"{100 * np.mean(found):.2f}%" for name, found in errors.items()}
    return _row(f"backtest, fitted rows only: {what}: mean relative error", texts)


def _error_rows(points: pd.DataFrame, held: MixtureRuns) -> Iterator[Comparison]:
    published = ", ".join(f"{name} {text}" for name, text in _PUBLISHED.items())
    yield _row(f"mean relative error of {len(held.domains)} losses", _errors(points), published)
    if points["params"].nunique() > 1:
        for size, part in points.groupby("params"):
            yield _row(f"mean relative error at {size / 1e6:.0f}M", _errors(part))
    for domain, part in points.groupby("domain", sort=False):
        yield _row(f"mean relative error: {domain}", _errors(part))


def _errors(points: pd.DataFrame) -> dict[str, str]:
    """Return the mean relative error of each method as text."""
    error = points["relative_error"].abs().groupby(points["method"], sort=False).mean()
    return {str(method): f"{100 * value:.2f}%" for method, value in error.items()}


def _rank_rows(points: pd.DataFrame) -> Iterator[Comparison]:
    """Yield rank correlations over the mixtures of one size at its last checkpoints."""
    last = points["tokens"] == points.groupby("params")["tokens"].transform("max")
    for size, part in points[last].groupby("params"):
        texts = {}
        for method, mine in part.groupby("method", sort=False):
            found = [_rank(rows) for _, rows in mine.groupby("domain")]
            known = np.isfinite(found).all()
            texts[str(method)] = f"{np.mean(found):.3f} ({np.min(found):.2f})" if known else "-"
        yield _row(
            f"rank correlation over mixtures at {size / 1e6:.0f}M: mean of domains (lowest)", texts
        )


def _rank(rows: pd.DataFrame) -> float:
    known = rows.dropna(subset=["actual", "predicted"])
    if len(known) < 3 or known["predicted"].nunique() < 2:
        return np.nan
    return float(stats.spearmanr(known["predicted"], known["actual"])[0])


def _inside(points: pd.DataFrame) -> float:
    known = points.dropna(subset=["actual"])
    return 100 * float(known["actual"].between(known["low_90"], known["high_90"]).mean())


def _sizes(runs: MixtureRuns) -> str:
    return ", ".join(f"{size / 1e6:.0f}M" for size in np.unique(runs.params))


def _row(what: str, texts: dict[str, str], published: str = "") -> Comparison:
    methods = {name: text for name, text in texts.items() if name != OURS}
    return Comparison(what=what, published=published, methods=methods, ours=texts[OURS])
