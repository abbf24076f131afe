"""From a loss table of runs on mixtures to predictions at other sizes and other mixtures.

    found = predict_mixtures(table, PredictOptions(targets=("1b-code-0.3",)))

Every validation set and every task's gold answers is a domain with a law of its own. The result has
the columns of ``lossline.prediction``.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.mixtures.catalogue import DEFAULT, LAWS
from lossline.mixtures.laws import Law, LawFit
from lossline.mixtures.resampling import refits
from lossline.mixtures.runs import (
    MixtureRuns,
    components_of,
    domains_of,
    recorded_shares,
    shares_of,
)
from lossline.prediction.backtest import coverage_of, cuts_of
from lossline.prediction.decisions import same_scale
from lossline.prediction.intervals import (
    Spread,
    learn,
    resampled_variance,
    run_weights,
    to_scale,
)
from lossline.prediction.options import PredictOptions
from lossline.prediction.predict import projection, rows_to_use, with_runs
from lossline.prediction.predictor import interval_columns, verdict
from lossline.prediction.results import (
    BACKTEST_COLUMNS,
    CURVE_COLUMNS,
    DECISION_COLUMNS,
    INFLUENCE_COLUMNS,
    LEVELS,
    POINT_COLUMNS,
    PREDICTION_COLUMNS,
    STAGE_COLUMNS,
    Outcome,
    Predictions,
    Target,
    TargetKind,
)
from lossline.tables.continued import left_out_of_laws
from lossline.terminal import Say, silent

Array = np.ndarray

# Name of the file format of ``Predictions.predictor`` here.
PREDICTOR = "predictor of mixtures of lossline.predict"
# Name of the default law in the results; the others keep their own.
OURS = "lossline"
_CURVE_POINTS = 30
_MOST_RESAMPLES = 200  # each refits all domains together
# Difference of a share that is another mixture; shares out of counted tokens differ by chance.
_ANOTHER_MIXTURE = 0.002
_METRIC = "loss"  # bits per byte and nats per token have the same scale of errors, a logarithm


def has_mixtures(table: pd.DataFrame) -> bool:
    """Return whether the runs of a table differ in their shares of two components or more."""
    names = components_of(table)
    if len(names) < 2:
        return False
    shares = recorded_shares(table, names).dropna()
    return bool((shares.max() - shares.min()).max() > _ANOTHER_MIXTURE)


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What is fitted, what is predicted and with which laws."""

    fitted: MixtureRuns
    targets: Sequence[Target]
    actual: Array  # (T, J), NaN for a projection
    units: Mapping[str, str]
    laws: Mapping[str, Law]

    def at_targets(self, fit: LawFit) -> Array:
        """Return predictions (T, J)."""
        return _at(fit, self.targets)


def predict_mixtures(
    table: pd.DataFrame, options: PredictOptions | None = None, *, say: Say = silent
) -> Predictions:
    """Predict the losses of models of other sizes and mixtures from runs on mixtures.

    Laws are fitted to the last checkpoint of each run. Targets are runs of the table, or points
    (N, D, {component: share}); without either, all runs within 5% of the most compute. The default
    law alone is refitted to resampled runs, at most 200 times; the intervals of the others rest on
    their backtests.

    Args:
        table: a loss table with share.<component> and compute.
        options: targets, above_flops, points, exclude, tasks, validation sets, methods, resamples
            and seed; the others are for laws of scale alone.
        say: called with a line of progress.

    Raises:
        UserError: the table has no mixtures, shares do not sum to 1, a component has no run above
            0, a point has no shares, or an option names what the table does not have.
    """
    options = with_runs(options or PredictOptions(), table)
    setup = _setup(rows_to_use(table, options), options)
    say(f"backtests of {len(setup.laws)} laws on {len(setup.fitted.domains)} domains")
    tested, spreads = _backtest(setup)
    predictions: list[dict[str, Any]] = []
    stages: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    notes: list[str] = [*filter(None, [left_out_of_laws(table)])]
    influence: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for name, law in setup.laws.items():
        say(f"law {name}")
        resamples = options.resamples if name == OURS else 0
        found = _fit(law, setup.fitted, min(resamples, _MOST_RESAMPLES), options.seed)
        predictions += _predicted(setup, name, found, spreads.get(name, Spread()), tested)
        if isinstance(found, str):
            continue
        fit, refitted = found
        kept[name] = {
            "fit": fit.to_dict(),
            "refits": [other.theta.tolist() for other in refitted],
            "spread": dataclasses.asdict(spreads.get(name, Spread())),
        }
        notes += [note for note in fit.notes if note not in notes]
        stages += _stages(name, fit, len(setup.fitted))
        curves.append(_curves(setup, name, found, spreads.get(name, Spread())))
        if name == OURS:
            influence = _influence(setup, law, fit)
    frame = pd.DataFrame(predictions, columns=list(PREDICTION_COLUMNS))
    return Predictions(
        predictions=frame,
        backtest=tested,
        influence=pd.DataFrame(influence, columns=list(INFLUENCE_COLUMNS)),
        points=_points(setup),
        curves=pd.concat([pd.DataFrame(columns=list(CURVE_COLUMNS)), *curves], ignore_index=True),
        stages=pd.DataFrame(stages, columns=list(STAGE_COLUMNS)),
        decisions=_decisions(frame, setup),
        default=OURS if OURS in setup.laws else next(iter(setup.laws)),
        notes=tuple(notes),
        settings=dataclasses.asdict(options),
        predictor=_predictor(setup, kept),
    )


def _predictor(setup: _Setup, laws: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fitted laws as JSON values."""
    runs = setup.fitted
    return {
        "what": PREDICTOR,
        "units": dict(setup.units),
        "runs": len(np.unique(runs.runs)),
        "largest_flops": float(runs.flops.max()),
        "flops_ratio": float(np.median(runs.flops / (6.0 * runs.params * runs.tokens))),
        "laws": laws,
    }


def _setup(rows: pd.DataFrame, options: PredictOptions) -> _Setup:
    known = {OURS: DEFAULT(), **{n: law() for n, law in LAWS.items() if law is not DEFAULT}}
    if unknown := sorted(set(options.methods) - set(known)):
        raise UserError(
            f"predict.methods: {unknown[0]!r} is unknown for runs on mixtures. Choose from "
            f"{', '.join(known)}."
        )
    laws = {name: known[name] for name in options.methods or known}
    domains = domains_of(rows, validation_sets=options.validation_sets, tasks=options.tasks)
    runs = MixtureRuns.from_table(rows, domains=domains).last_checkpoints
    # One order, so that the order of the table's rows changes no digit.
    runs = runs[np.lexsort((runs.runs.astype(str), *runs.shares.T, runs.tokens, runs.params))]
    if not np.isfinite(runs.flops).all():
        runs = dataclasses.replace(runs, flops=6.0 * runs.params * runs.tokens)
    held = np.isin(runs.runs, _held_out(runs, options))
    if held.all():
        raise UserError(
            "every run is a target: there is nothing to fit. Name fewer runs in predict.targets."
        )
    fitted = runs[~held]
    fitted.check_components()
    ahead = runs[held]
    order = np.lexsort((ahead.runs, ahead.flops))
    targets = [_target(ahead, int(i)) for i in order]
    ratio = float(np.median(runs.flops / (6.0 * runs.params * runs.tokens)))
    for point in options.points:
        target = projection(point, ratio)
        if not target.shares:
            raise UserError(
                f"predict.points: {target.name}: the runs were trained on mixtures, so a point "
                f'needs shares. Write "{target.params:g} {target.tokens:g} {_example(runs)}".'
            )
        text = ", ".join(f"{name} {share:g}" for name, share in target.shares.items())
        shares_of(target.shares, runs.components, f"predict.points: {target.name}, {text}")
        targets.append(dataclasses.replace(target, name=f"{target.name}, {text}"))
    actual = np.full((len(targets), len(runs.domains)), np.nan)
    actual[: len(order)] = ahead.losses[order]
    units = {domain: unit for domain, (_, unit) in zip(runs.domains, domains, strict=True)}
    return _Setup(fitted=fitted, targets=targets, actual=actual, units=units, laws=laws)


def _example(runs: MixtureRuns) -> str:
    """Return the shares of the first run as a point has them: "code=0.2 web=0.8"."""
    return " ".join(
        f"{name}={share:.3g}" for name, share in zip(runs.components, runs.shares[0], strict=True)
    )


def _held_out(runs: MixtureRuns, options: PredictOptions) -> list[str]:
    if options.targets:
        return list(options.targets)
    if options.above_flops is not None:
        return list(runs.runs[runs.flops > options.above_flops])
    if options.points:
        return []
    return list(runs.runs[runs.flops > 0.95 * runs.flops.max()])


def _target(runs: MixtureRuns, row: int) -> Target:
    shares = dict(zip(runs.components, map(float, runs.shares[row]), strict=True))
    return Target(
        name=str(runs.runs[row]),
        kind=TargetKind.PREDICTION,
        params=float(runs.params[row]),
        tokens=float(runs.tokens[row]),
        flops=float(runs.flops[row]),
        shares=shares,
    )


def _at(fit: LawFit, targets: Sequence[Target]) -> Array:
    shares = np.concatenate([shares_of(t.shares, fit.components) for t in targets])
    params, tokens, flops = (
        np.array([getattr(t, name) for t in targets]) for name in ("params", "tokens", "flops")
    )
    return fit.predict(shares, params=params, tokens=tokens, flops=flops)


def _fit(
    law: Law, runs: MixtureRuns, resamples: int, seed: int
) -> tuple[LawFit, list[LawFit]] | str:
    """Return the fit to all runs and to resamples of them, or why there is none."""
    try:
        fit = law.fit(runs)
    except UserError as error:
        return str(error)
    number = runs.run_numbers
    weights = run_weights(int(number.max()) + 1, resamples, seed)[1:]
    if not len(weights):
        return fit, []
    samples = refits(law, runs, fit, weights[:, number], seed=seed)
    return fit, [dataclasses.replace(fit, theta=theta) for theta in samples]


def _backtest(setup: _Setup) -> tuple[pd.DataFrame, dict[str, Spread]]:
    """Fit all runs up to each cut in compute, predict every later one."""
    runs, rows = setup.fitted, []
    for cut in cuts_of(runs.flops):
        below = runs.flops <= cut * (1 + 1e-9)
        later = runs[~below]
        targets = [_target(later, i) for i in range(len(later))]
        try:
            runs[below].check_components()
        except UserError:
            continue
        for name, law in setup.laws.items():
            found = _fit(law, runs[below], 0, 0)
            if isinstance(found, str):
                continue
            predicted = _at(found[0], targets)
            for (i, target), (j, domain) in itertools.product(
                enumerate(targets), enumerate(runs.domains)
            ):
                rows.append(
                    {
                        "cut": cut,
                        "runs": int(below.sum()),
                        "group": "",
                        "method": name,
                        "task": domain,
                        "metric": setup.units[domain],
                        "target": target.name,
                        "params": target.params,
                        "tokens": target.tokens,
                        "flops": target.flops,
                        "extrapolation": target.flops / cut,
                        "predicted": predicted[i, j],
                        "actual": later.losses[i, j],
                        "relative_error": predicted[i, j] / later.losses[i, j] - 1,
                        "status": str(Outcome.PREDICTED),
                        "reason": "",
                    }
                )
    frame = pd.DataFrame(rows, columns=list(BACKTEST_COLUMNS))
    frame = frame[frame["predicted"].notna() & frame["actual"].notna()].reset_index(drop=True)
    if frame.empty:
        return frame, {}
    error = to_scale(frame["predicted"], _METRIC) - to_scale(frame["actual"], _METRIC)
    for (method, cut), part in frame.groupby(["method", "cut"]):
        known = (frame["method"] == method) & (frame["cut"] < cut) & (frame["flops"] <= cut)
        spread = _learned(error[known], frame["extrapolation"][known])
        for level in LEVELS:
            low, high = spread.interval(
                part["predicted"].to_numpy(float),
                np.zeros(len(part)),
                part["extrapolation"].to_numpy(float),
                level,
                _METRIC,
            )
            frame.loc[part.index, f"low_{round(100 * level)}"] = low
            frame.loc[part.index, f"high_{round(100 * level)}"] = high
    spreads = {
        str(method): _learned(error[part.index], part["extrapolation"])
        for method, part in frame.groupby("method")
    }
    return frame, spreads


def _learned(error: pd.Series, extrapolation: pd.Series) -> Spread:
    return learn(list(error), [0.0] * len(error), list(extrapolation))


def _predicted(
    setup: _Setup,
    name: str,
    found: tuple[LawFit, list[LawFit]] | str,
    spread: Spread,
    tested: pd.DataFrame,
) -> list[dict[str, Any]]:
    """Return the rows of one law."""
    coverage, backtests = coverage_of(tested[tested["method"] == name], 0.9)
    largest = setup.fitted.flops.max()
    count = len(np.unique(setup.fitted.runs))
    draws = np.full((1, len(setup.targets), len(setup.fitted.domains)), np.nan)
    if not isinstance(found, str):
        draws = np.stack([_at(fit, setup.targets) for fit in (found[0], *found[1])])
    rows = []
    for (i, target), (j, domain) in itertools.product(
        enumerate(setup.targets), enumerate(setup.fitted.domains)
    ):
        predicted, actual = float(draws[0, i, j]), float(setup.actual[i, j])
        row = {
            "group": "",
            "method": name,
            "task": domain,
            "metric": setup.units[domain],
            "target": target.name,
            "kind": str(target.kind),
            "params": target.params,
            "tokens": target.tokens,
            "flops": target.flops,
            "extrapolation": target.flops / largest,
            "actual": actual,
            "coverage_90": coverage,
            "backtests": backtests,
        }
        if not np.isfinite(predicted):
            reason = found if isinstance(found, str) else _why_none(found[0], target)
            rows.append({**row, "status": str(Outcome.NOT_IDENTIFIED), "reason": reason})
            continue
        variance = resampled_variance(draws[:, i, j : j + 1], _METRIC, count)
        row |= interval_columns(predicted, variance[0], row["extrapolation"], spread, _METRIC)
        row |= verdict(row)
        reasons = [text for text in (row["reason"], _outside(setup.fitted, target)) if text]
        rows.append({**row, "reason": "; ".join(reasons)})
    return rows


def _why_none(fit: LawFit, target: Target) -> str:
    if not fit.law.zero_shares and shares_of(target.shares, fit.components).min() == 0:
        return f"{fit.law.name} is not defined for a share of 0"
    return "all fitted runs have one size: the effect of N is not identified"


def _outside(runs: MixtureRuns, target: Target) -> str:
    """Return which shares of the target lie outside the mixtures trained."""
    out = []
    for component, column in zip(runs.components, runs.shares.T, strict=True):
        share = target.shares.get(component, 0.0)
        if not column.min() - 1e-6 <= share <= column.max() + 1e-6:
            out.append(
                f"{component} {share:.3g} (trained: {column.min():.3g} to {column.max():.3g})"
            )
    return f"outside the mixtures trained: {', '.join(out)}" if out else ""


def _stages(name: str, fit: LawFit, count: int) -> list[dict[str, Any]]:
    names = fit.law.parameters(fit.components).names
    return [
        {
            "group": "",
            "method": name,
            "task": domain,
            "stage": "loss",
            "law": fit.law.name,
            "equation": fit.law.equation,
            "source": fit.law.source,
            "parameters": json.dumps(dict(zip(names, map(float, fit.theta[j]), strict=True))),
            "runs": count,
            "points": count,
            "weakest": "; ".join(fit.notes),
            "outliers": "",
        }
        for j, domain in enumerate(fit.domains)
    ]


def _curves(
    setup: _Setup, name: str, found: tuple[LawFit, list[LawFit]], spread: Spread
) -> pd.DataFrame:
    """Return a law along compute at the mixture and D / N of the target of most compute."""
    target = max(setup.targets, key=lambda t: t.flops)
    flops = np.geomspace(
        setup.fitted.flops.min(), max(target.flops, setup.fitted.flops.max()), _CURVE_POINTS
    )
    step = np.sqrt(flops / target.flops)
    models = [
        dataclasses.replace(target, params=target.params * s, tokens=target.tokens * s, flops=c)
        for s, c in zip(step, flops, strict=True)
    ]
    draws = np.stack([_at(fit, models) for fit in (found[0], *found[1])])
    frames = []
    for j, domain in enumerate(setup.fitted.domains):
        frame = pd.DataFrame({"flops": flops, "predicted": draws[0, :, j]}).assign(
            group="", task=domain, metric=setup.units[domain], target=target.name, method=name
        )
        if name == OURS:
            variance = resampled_variance(draws[:, :, j], _METRIC, len(setup.fitted))
            beyond = flops / setup.fitted.flops.max()
            frame["low_90"], frame["high_90"] = spread.interval(
                draws[0, :, j], variance, beyond, 0.9, _METRIC
            )
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).reindex(columns=list(CURVE_COLUMNS))


def _influence(setup: _Setup, law: Law, fit: LawFit) -> list[dict[str, Any]]:
    """Return what leaving out each size does to each prediction."""
    runs, base = setup.fitted, setup.at_targets(fit)
    rows = []
    for size in np.unique(runs.params):
        kept = runs.params != size
        if not kept.any():
            continue
        found = _fit(law, runs[kept], 0, 0)
        without = (
            np.full(base.shape, np.nan) if isinstance(found, str) else setup.at_targets(found[0])
        )
        rows += [
            {
                "group": "",
                "left_out": f"{size:.3g} parameters",
                "runs": int((~kept).sum()),
                "task": domain,
                "target": target.name,
                "predicted": without[i, j],
                "change": without[i, j] - base[i, j],
            }
            for (i, target), (j, domain) in itertools.product(
                enumerate(setup.targets), enumerate(runs.domains)
            )
        ]
    return rows


def _points(setup: _Setup) -> pd.DataFrame:
    """Return the measurements for the figures, those of the targets included."""
    runs = setup.fitted
    frames = []
    for j, domain in enumerate(runs.domains):
        fitted = pd.DataFrame(
            {
                "run_id": runs.runs,
                "params": runs.params,
                "tokens": runs.tokens,
                "flops": runs.flops,
                "value": runs.losses[:, j],
                "held_out": False,
            }
        )
        ahead = pd.DataFrame(
            {
                "run_id": [t.name for t in setup.targets],
                "params": [t.params for t in setup.targets],
                "tokens": [t.tokens for t in setup.targets],
                "flops": [t.flops for t in setup.targets],
                "value": setup.actual[:, j],
                "held_out": True,
            }
        )
        frames.append(
            pd.concat([fitted, ahead[ahead["value"].notna()]], ignore_index=True).assign(
                group="",
                task=domain,
                metric=setup.units[domain],
                chance=0.0,
                final=True,
                emerged=True,
            )
        )
    return pd.concat(frames, ignore_index=True).reindex(columns=list(POINT_COLUMNS))


def _decisions(predictions: pd.DataFrame, setup: _Setup) -> pd.DataFrame:
    """Return how often each law calls the better of two mixtures of one scale.

    Single-scale ranking takes the mixture that was better at the largest size fitted that has both.
    """
    shares = {t.name: tuple(np.round(list(t.shares.values()), 6)) for t in setup.targets}
    known = predictions[predictions["predicted"].notna() & predictions["actual"].notna()]
    rows = []
    for (method, task), part in known.groupby(["method", "task"], sort=False):
        right, single = [], []
        for a, b in itertools.combinations(part.to_dict("records"), 2):
            one, other = shares[a["target"]], shares[b["target"]]
            if one == other or not same_scale(a, b) or a["actual"] == b["actual"]:
                continue
            truth = a["actual"] < b["actual"]
            right.append((a["predicted"] < b["predicted"]) == truth)
            smaller = _better_when_small(setup.fitted, task, one, other)
            if smaller is not None:
                single.append(smaller == truth)
        if right:
            rows.append(
                {
                    "method": method,
                    "task": task,
                    "pairs": len(right),
                    "right": int(np.sum(right)),
                    "accuracy": float(np.mean(right)),
                    "single_scale_accuracy": float(np.mean(single)) if single else np.nan,
                }
            )
    return pd.DataFrame(rows, columns=list(DECISION_COLUMNS))


def _better_when_small(
    runs: MixtureRuns, domain: object, first: tuple[float, ...], second: tuple[float, ...]
) -> bool | None:
    losses = runs.losses[:, runs.domains.index(str(domain))]
    for size in sorted(np.unique(runs.params), reverse=True):
        here = runs.params == size
        pair = [
            losses[here & np.isclose(runs.shares, s, atol=1e-4).all(axis=1)]
            for s in (first, second)
        ]
        if len(pair[0]) and len(pair[1]) and pair[0][0] != pair[1][0]:
            return bool(pair[0][0] < pair[1][0])
    return None
