"""Sections of the swarms (RegMix, Olmix): losses of unseen mixtures at one size, zero shares.

RegMix's 512 models of 1M parameters are the only fitted ones: five folds of them, and all of them
for the mixtures of other files. Of other sizes only the order of mixtures is predicted. Each swarm
of Olmix has five folds of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from records import Comparison, Section, percent

from lossline.errors import UserError
from lossline.mixtures.process_law import ProcessFit, ProcessLaw
from lossline.mixtures.runs import MixtureRuns
from lossline.mixtures.share_laws import ExponentialLaw, LinearLaw

try:
    import lightgbm
except ImportError:  # extra [peers]
    lightgbm = None

Array = np.ndarray
Predictor = Callable[[Array], Array]
Method = Callable[[MixtureRuns], Predictor]

OURS, TREES = "ours", "LightGBM"
LEVELS = (0.5, 0.8, 0.9)
FOLDS, SEED = 5, 1  # the form was chosen with other folds (seed 0)
_SIZES = {"1m": 1e6, "60m": 6e7, "1b": 1e9}  # parameters, by the name in RegMix's files
_UNSEEN = {"1m_test": "1m", "60m": "60m", "1b": "1b"}  # files that are never fitted
_TOKENS = {"regmix": 1e9, "olmix": 3e9}
_TARGET = "pile_cc"
# RegMix (arXiv 2407.01492), Spearman for Pile-CC on unseen mixtures, by size.
_PUBLISHED = {
    "1m": {"linear": 90.1, TREES: 98.5},
    "60m": {"linear": 89.3, TREES: 98.6},
    "1b": {"linear": 88.0, TREES: 97.1},
}
# RegMix's settings, without its early stop on the test set.
_TREES = {
    "objective": "regression",
    "seed": 42,
    "learning_rate": 0.01,
    "num_threads": 1,
    "verbosity": -1,
}
_ROUNDS = 1000


def sections(folder: Path) -> Iterable[Section]:
    """Yield a section for each swarm whose files are in the folder."""
    yield from regmix(folder)
    yield from olmix(folder)


def regmix(folder: Path) -> Iterable[Section]:
    """Yield the section of RegMix."""
    if (folder / "regmix_mixture_1m.csv").exists():
        yield _regmix(folder)


def olmix(folder: Path) -> Iterable[Section]:
    """Yield a section for each swarm of Olmix."""
    for ratios in sorted(folder.glob("olmix_ratios*.csv")):
        ending = ratios.stem.removeprefix("olmix_ratios")
        if (folder / f"olmix_metrics{ending}.csv").exists():
            files = ratios, folder / f"olmix_metrics{ending}.csv"
            runs = read_swarm(*files, key="run", params=3e7, tokens=_TOKENS["olmix"])
            yield _folded(f"Olmix{ending.replace('_', ' ')}", runs)


def read_swarm(
    shares: Path, losses: Path, *, key: str, params: float, tokens: float
) -> MixtureRuns:
    """Return a swarm from its two files, joined on ``key``.

    Raises:
        UserError: a file has no such column, no run is in both files, or shares do not sum to 1.
    """
    left, right = (_numbers(path, key) for path in (shares, losses))
    both = left.index.intersection(right.index, sort=False)
    if not len(both):
        raise UserError(f"{shares.name} and {losses.name} have no {key} in common")
    left, right = left.loc[both], right.loc[both].dropna(axis=1, how="all")
    return MixtureRuns(
        components=tuple(left.columns),
        domains=tuple(right.columns),
        shares=left.to_numpy(float),
        params=np.full(len(both), params),
        tokens=np.full(len(both), tokens),
        flops=np.full(len(both), np.nan),
        losses=right.to_numpy(float),
        runs=both.to_numpy(),
    )


def _numbers(path: Path, key: str) -> pd.DataFrame:
    """Return the shares or losses of a file, by run, with short column names."""
    table = pd.read_csv(path)
    if key not in table:
        raise UserError(f"{path.name}: column {key!r} is missing")
    table = table.set_index(key).drop(columns=["Unnamed: 0", "name", "index"], errors="ignore")
    table = table.select_dtypes("number")
    return table.rename(columns=_short)


def _short(column: str) -> str:
    """Return RegMix's name of a domain without what all its columns share."""
    for start in ("train_the_pile_", "metric/the_pile_"):
        column = column.removeprefix(start)
    return column.removesuffix("_val_loss")


def methods() -> dict[str, Method]:
    """Return the methods to compare: name -> predictor (shares (T, K) to losses (T, J)) of runs."""
    found: dict[str, Method] = {
        "linear": lambda runs: LinearLaw().fit(runs).predict,
        "exponential law": lambda runs: ExponentialLaw().fit(runs).predict,
    }
    if lightgbm is not None:
        found[TREES] = _trees
    return found


def _trees(runs: MixtureRuns) -> Predictor:
    """Return a predictor by gradient boosting, one model per domain, as RegMix does."""
    models = []
    for losses in runs.losses.T:
        rows = np.isfinite(losses)
        data = lightgbm.Dataset(runs.shares[rows], losses[rows])
        models.append(lightgbm.train(_TREES, data, num_boost_round=_ROUNDS))
    return lambda shares: np.column_stack([model.predict(shares) for model in models])


class Contest:
    """All methods fitted to the same runs, with the components that one of these runs has."""

    def __init__(self, fitted: MixtureRuns) -> None:
        used = (fitted.shares > 0).any(axis=0)
        names = [name for name, some in zip(fitted.components, used, strict=True) if some]
        self.runs = dataclasses.replace(
            fitted, components=tuple(names), shares=fitted.shares[:, used]
        )
        self.process = ProcessLaw().fit(self.runs)
        self.others = {name: method(self.runs) for name, method in methods().items()}

    def predictions(self, held: MixtureRuns, where: str) -> pd.DataFrame:
        """Return every prediction at the held-out runs, with our intervals.

        Held-out runs with a component that no fitted run has are left out.
        """
        held = self._known(held)
        bands = _bands(self.process, held)
        parts = [_rows(held, OURS, self.process.predict(held.shares), where, bands)]
        for name, predict in self.others.items():
            parts.append(_rows(held, name, predict(held.shares), where, {}))
        return pd.concat(parts, ignore_index=True)

    def _known(self, held: MixtureRuns) -> MixtureRuns:
        """Return the held-out runs that have only known components, in the fitted order."""
        names = self.runs.components
        shares = held.shares[:, [held.components.index(name) for name in names]]
        known = shares.sum(axis=1) > 1 - 1e-9
        held = dataclasses.replace(held[known], components=names, shares=shares[known])
        return held.only(self.runs.domains)


def _bands(process: ProcessFit, held: MixtureRuns) -> dict[str, Array]:
    """Return the ends of our intervals (T, J) by column name."""
    found: dict[str, Array] = {}
    for level in LEVELS:
        low, high = process.intervals(held.shares, level)
        found |= {f"low_{100 * level:.0f}": low, f"high_{100 * level:.0f}": high}
    return found


def _rows(
    held: MixtureRuns, method: str, values: Array, where: str, bands: Mapping[str, Array]
) -> pd.DataFrame:
    """Return one row per run and domain."""
    count = len(held.domains)
    return pd.DataFrame(
        {
            "where": where,
            "method": method,
            "run": np.repeat(held.runs, count),
            "domain": np.tile(np.array(held.domains), len(held)),
            "predicted": values.ravel(),
            "actual": held.losses.ravel(),
            "relative_error": (values / held.losses - 1).ravel(),
            **{name: ends.ravel() for name, ends in bands.items()},
        }
    )


def in_folds(runs: MixtureRuns) -> pd.DataFrame:
    """Return every prediction of five folds, each from the other four."""
    fold = np.empty(len(runs), int)
    fold[np.random.default_rng(SEED).permutation(len(runs))] = np.arange(len(runs)) % FOLDS
    parts = [
        Contest(runs[fold != k]).predictions(runs[fold == k], "five folds") for k in range(FOLDS)
    ]
    return pd.concat(parts, ignore_index=True)


def _regmix(folder: Path) -> Section:
    """Return the section of RegMix."""

    def read(ending: str, size: str) -> MixtureRuns:
        files = [folder / f"regmix_{what}_{ending}.csv" for what in ("mixture", "pile_loss")]
        return read_swarm(*files, key="index", params=_SIZES[size], tokens=_TOKENS["regmix"])

    fitted = read("1m", "1m")
    points = in_folds(fitted)
    tables = {"regmix_folds": points}
    rows = [*_compare("1M, five folds", points), *_target("1M, five folds", points, {})]
    notes = [*_coverage(points), *_absent()]
    unseen = {
        ending: size
        for ending, size in _UNSEEN.items()
        if (folder / f"regmix_mixture_{ending}.csv").exists()
    }
    contest = Contest(fitted)
    for ending, size in unseen.items():
        points = contest.predictions(read(ending, size), ending)
        what = f"{size.upper()}, unseen mixtures"
        if size == "1m":
            notes += _coverage(points)
        else:
            points = _ranks_only(points)
        tables[f"regmix_{ending}"] = points
        rows += [*_compare(what, points), *_target(what, points, _PUBLISHED[size])]
    return Section(
        title=f"RegMix: losses of unseen mixtures, fitted on {len(fitted)} runs of 1M parameters",
        rows=rows,
        notes=[*notes, "Sizes other than 1M: only the order of mixtures is predicted."],
        tables=tables,
    )


def _ranks_only(points: pd.DataFrame) -> pd.DataFrame:
    """Return predictions of another size without errors and intervals, which mean nothing there."""
    bands = [column for column in points if column.startswith(("low_", "high_"))]
    return points.drop(columns=["relative_error", *bands])


def _folded(name: str, runs: MixtureRuns) -> Section:
    """Return the section of a swarm that is predicted in five folds of its own."""
    points = in_folds(runs)
    predicted = points["run"].nunique()
    notes = _coverage(points) + _absent()
    if predicted < len(runs):
        notes.append(
            f"{len(runs) - predicted} of {len(runs)} mixtures left out: no other fold has one of "
            "their components"
        )
    what = f"{predicted} mixtures, {len(runs.components)} components, {len(runs.domains)} tasks"
    return Section(
        title=f"{name}: bits per byte of unseen mixtures, five folds",
        rows=_compare(what, points),
        notes=notes,
        tables={f"{name.lower().replace(' ', '_')}_folds": points},
    )


def _compare(what: str, points: pd.DataFrame) -> list[Comparison]:
    """Return the comparisons of all domains of one test."""
    by_method = dict(list(points.groupby("method", sort=False)))
    found = []
    if "relative_error" in points:
        values = {
            name: percent(float(part["relative_error"].abs().mean()))
            for name, part in by_method.items()
        }
        found.append(_row(f"{what}: mean relative error", values))
    for label, score in (
        ("Spearman, mean over domains", _domain_ranks),
        ("Spearman of the mean over domains", _mean_ranks),
    ):
        values = {name: f"{100 * score(part):.2f}" for name, part in by_method.items()}
        found.append(_row(f"{what}: {label}", values))
    return found


def _target(what: str, points: pd.DataFrame, published: Mapping[str, float]) -> list[Comparison]:
    """Return the comparison for Pile-CC alone."""
    part = points[points["domain"] == _TARGET]
    if part.empty:
        return []
    values = {
        name: f"{100 * _domain_ranks(rows):.2f}"
        for name, rows in part.groupby("method", sort=False)
    }
    row = _row(f"{what}: Spearman for Pile-CC", values)
    return [dataclasses.replace(row, published=_joined(published))]


def _row(what: str, values: Mapping[str, str]) -> Comparison:
    """Return a comparison from one text per method."""
    rerun = {name: value for name, value in values.items() if name != OURS}
    return Comparison(what=what, rerun=_joined(rerun), ours=values[OURS])


def _joined(values: Mapping[str, object]) -> str:
    """Return "method value" of each method."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _domain_ranks(points: pd.DataFrame) -> float:
    """Return Spearman's correlation over mixtures, mean over domains."""
    ranks = [
        part["predicted"].corr(part["actual"], method="spearman")
        for _, part in points.groupby("domain")
    ]
    return float(np.mean(ranks))


def _mean_ranks(points: pd.DataFrame) -> float:
    """Return Spearman's correlation over mixtures of the mean loss over domains."""
    means = points.groupby("run")[["predicted", "actual"]].mean()
    return float(means["predicted"].corr(means["actual"], method="spearman"))


def _coverage(points: pd.DataFrame) -> list[str]:
    """Return a note on how many measured losses lie in our intervals."""
    ours = points[(points["method"] == OURS) & points["actual"].notna()]
    shares = []
    for level in LEVELS:
        ends = ours[f"low_{100 * level:.0f}"], ours[f"high_{100 * level:.0f}"]
        shares.append(
            f"{percent(level, 0)}: {percent(float(ours['actual'].between(*ends).mean()), 1)}"
        )
    return [f"our intervals hold ({ours['where'].iloc[0]}) {', '.join(shares)} of {len(ours)}"]


def _absent() -> list[str]:
    """Return a note where the peer is not installed."""
    if lightgbm is not None:
        return []
    return ["LightGBM is not installed, so that its rerun is left out: pip install lightgbm"]
