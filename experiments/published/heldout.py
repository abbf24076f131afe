"""Sections of held-out predictions: Kempner's runs of largest compute from the smaller ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from interval_coverage import score_row
from records import Comparison, Section, named, percent
from scipy.optimize import curve_fit

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla, Kaplan
from lossline.laws.problems import FitProblem
from lossline.laws.results import FitResult
from lossline.laws.solver import fit_many
from lossline.lines.calibration import Calibration, Pool, pool_of
from lossline.lines.extrapolation import LINE, Extrapolation, extrapolate, split_at
from lossline.lines.fitting import LineOptions, fit_line, r_squared
from lossline.lines.published_line import published_line
from lossline.lines.rolling_cuts import calibrations
from lossline.lines.specimens import LineKind, Specimen
from lossline.lines.translation import near_optimal
from lossline.tables.pairing import Pairs, one_set, pair_groups
from lossline.tables.schema import OWN_SET

Laws = dict[tuple[str, str], FitResult]

# Without runs beyond the sweep, its largest budget is predicted from budgets of at most 1 / 20 of
# it: with all budgets 4.84e19 from 2.1e18 FLOPs. (1e21 is 21 times the largest.)
HORIZON = 20.0
SAME_BUDGET = 1.01
EDU = "fineweb-edu-100b"
TWENTY_LAYERS = 475_239_680
PUBLISHED = "published procedure"
TITLE = "Kempner"
KINDS = {
    LineKind.TRAIN_TO_TRAIN: "train-to-train",
    LineKind.TRAIN_TO_TEST: "train-to-validation",
    LineKind.TRAIN_TO_TASK: "train-to-task",
}
# Mean |relative error| at 1e21 FLOPs over five targets from FineWeb-Edu (METHODS 2.4): general
# train-to-test, test-to-test.
DOWNSTREAM = {
    "hellaswag": (0.016, 0.012), "arc_easy": (0.102, 0.176), "mmlu_humanities": (0.028, 0.231),
    "mmlu_stem": (0.064, 0.064),
}  # fmt: skip


def sections(
    table: pd.DataFrame, specimens: Sequence[Specimen], largest: float, *, has_beyond: bool
) -> list[Section]:
    """Return the sections. Rows of ``table`` above ``largest`` FLOPs are never fitted."""
    cut, target = (largest, None) if has_beyond else own_hold_out(table)
    if cut is None:
        title = f"{TITLE}: the runs of largest compute"
        return [Section(title=title, notes=["one budget only: nothing to predict it from"])]
    laws = published_laws(table[table["flops"] <= cut * SAME_BUDGET])
    found, notes = [], []
    sizes = calibrations_below(specimens, cut)
    for specimen in specimens:
        rows, why = _one(specimen, cut, target, laws, sizes[pool_of(specimen.kind)])
        found.append(rows)
        if why:
            notes.append(why)
    where = f"at {target:.3g}" if target else "beyond"
    title = f"{TITLE}: fitted up to {cut:.3g} FLOPs, predicted {where} (relative error)"
    if not sum(map(len, found)):
        return [Section(title=title, notes=["nothing could be predicted", *_counted(notes)])]
    points = pd.concat(found, ignore_index=True)
    notes = _counted(notes) + [f"intervals, {pool}: {one.sentence}" for pool, one in sizes.items()]
    parts = [_errors(title, points, _held_runs(table, cut, target), notes)]
    if has_beyond:
        parts += [_law_errors(table, laws, cut), _downstream(table, laws, cut)]
    return parts


def calibrations_below(specimens: Sequence[Specimen], cut: float) -> dict[Pool, Calibration]:
    """Return the calibration of each pool by the rolling cuts of the runs up to ``cut``."""
    return calibrations(
        [dataclasses.replace(one, pairs=split_at(one.pairs, cut)[0]) for one in specimens]
    )


def own_hold_out(table: pd.DataFrame) -> tuple[float | None, float | None]:
    """Return cut and target (FLOPs) within a sweep.

    The target is its largest budget. The cut is the largest budget of at most 1 / 20 of it, or else
    the next smaller one.
    """
    budgets = np.sort(table["flops"].dropna().unique())
    smaller = budgets[budgets * SAME_BUDGET < budgets[-1]]
    if not len(smaller):
        return None, None
    far = smaller[smaller <= budgets[-1] / HORIZON]
    return float(far[-1] if len(far) else smaller[-1]), float(budgets[-1])


def _held_runs(table: pd.DataFrame, cut: float, target: float | None) -> str:
    """Return in words how many runs of each pretraining set are held out."""
    held = table[table["flops"] > cut * SAME_BUDGET]
    if target is not None:
        held = held[np.abs(held["flops"] / target - 1) < SAME_BUDGET - 1]
    runs = held.groupby("pretraining_data")["run_id"].nunique()
    return ", ".join(f"{data} {count}" for data, count in runs.items())


def _counted(notes: Sequence[str]) -> list[str]:
    """Return each reason once, with the number of its lines and the first of them."""
    by_reason: dict[str, list[str]] = {}
    for note in notes:
        line, _, reason = note.partition(": left out: ")
        by_reason.setdefault(reason, []).append(line)
    return [
        f"{len(lines)} lines left out ({named(lines)}): {reason}"
        for reason, lines in by_reason.items()
    ]


def published_laws(table: pd.DataFrame) -> Laws:
    """Return the Kaplan-style law per (pretraining set, eval set): it gives the published E."""
    keys, problems = [], []
    for data, rows in table.groupby("pretraining_data"):
        for name in sorted(rows["eval_set"].unique()):
            points = one_set(rows, name, "loss")
            if len(points) > 5:
                scale = {
                    n: points[c].to_numpy(float) for n, c in (("N", "params"), ("D", "tokens"))
                }
                keys.append((str(data), name))
                problems.append(FitProblem(inputs=scale, target=points["value"].to_numpy(float)))
    return dict(zip(keys, fit_many(Kaplan(), problems), strict=True))


def _one(
    specimen: Specimen, cut: float, target: float | None, laws: Laws, sizes: Calibration
) -> tuple[pd.DataFrame, str]:
    """Return predictions of one line, and why there are none."""
    x_data = specimen.group["pretraining_data"]
    y_data = (specimen.y_group or specimen.group)["pretraining_data"]
    found: Extrapolation = extrapolate(specimen, cut=cut, target=target, calibration=sizes)
    rows = found.predictions
    if rows.empty:
        across = f"{x_data} -> {y_data}" if specimen.y_group else x_data
        return rows, f"{across}, {specimen.x_set} -> {specimen.y_set}: left out: {found.message}"
    fitted, held = split_at(specimen.pairs, cut, target)
    extra = rows[rows["method"] == LINE].copy()
    extra[["low", "high", "predicted", "relative_error"]] = np.nan
    extra["method"] = PUBLISHED
    try:
        line = published_line(
            fitted,
            laws[x_data, specimen.x_set].parameters["E"],
            laws[y_data, specimen.y_set].parameters["E"],
        )
    except (UserError, KeyError):
        pass  # no answer, counted as undefined
    else:
        extra["predicted"] = line.predict(held.x)
        extra["relative_error"] = extra["predicted"].to_numpy() / held.y - 1
        extra["undefined"] = held.x <= line.E_x
    both = pd.concat([rows, extra], ignore_index=True)
    facts = {"kind": KINDS[specimen.kind], "x_data": x_data, "y_data": y_data}
    return both.assign(**facts, eval_set=specimen.y_set), ""


def _errors(title: str, points: pd.DataFrame, runs: str, left_out: Sequence[str]) -> Section:
    """Return the section of errors of the line and the other methods."""
    points = points.assign(
        error=points["relative_error"].abs(),
        inside=(points["low"] <= points["y"]) & (points["y"] <= points["high"]),
    )
    rows, notes = [], [f"runs held out: {runs}"]
    for kind, part in points.groupby("kind", sort=False):
        error = {m: v["error"] for m, v in part.groupby("method")}
        for name, pick in (("median", pd.Series.median), ("worst", pd.Series.max)):
            rerun, ours = (percent(pick(error[m])) for m in (PUBLISHED, LINE))
            rows.append(Comparison(what=f"{kind}: {name} error", rerun=rerun, ours=ours))
        ratio = error[LINE].median() / error[PUBLISHED].median()
        held = part.loc[part["method"] == LINE, "inside"].mean()
        shown = f"{ratio:.2f}" if np.isfinite(ratio) else ""
        rows.append(Comparison(what=f"{kind}: ratio of medians", ours=shown))
        nearer = np.mean(error[LINE].to_numpy() < error[PUBLISHED].fillna(np.inf).to_numpy())
        rows.append(Comparison(what=f"{kind}: ours is nearer at", ours=f"{100 * nearer:.0f}%"))
        rows.append(Comparison(what=f"{kind}: 90% intervals hold", ours=f"{100 * held:.1f}%"))
        rows.append(score_row(kind, part[part["method"] == LINE], "y"))
        others = ", ".join(
            f"{m} {percent(e.median())}" for m, e in error.items() if m not in (LINE, PUBLISHED)
        )
        notes.append(f"{kind}, {len(error[LINE])} points; medians of other ways: {others}")
    held = points.loc[points["method"] == LINE, "inside"].mean()
    rows.append(Comparison(what="all: 90% intervals hold", ours=f"{100 * held:.1f}%"))
    published = points[points["method"] == PUBLISHED]
    if "undefined" in published:
        share = published["undefined"].astype(object).fillna(True).astype(bool).mean()
        notes.append(
            f"the published procedure is undefined (x below E_x) at {100 * share:.0f}% of the "
            "points; its limit E_y is taken there"
        )
    return Section(
        title=title,
        rows=rows,
        notes=[*notes, *left_out],
        tables={"heldout": points.drop(columns=["error"])},
    )


def _law_errors(table: pd.DataFrame, laws: Laws, cut: float) -> Section:
    """Return errors of compute laws at the held-out runs, own validation loss."""
    errors: dict[str, list[float]] = {"kaplan": [], "chinchilla": []}
    for data, rows in table.groupby("pretraining_data"):
        points = one_set(rows, OWN_SET, "loss")
        above = points["flops"] > cut * SAME_BUDGET
        below, held = points[~above], points[above]
        if (str(data), OWN_SET) not in laws or held.empty:
            continue
        scale = {n: below[c].to_numpy(float) for n, c in (("N", "params"), ("D", "tokens"))}
        problem = FitProblem(inputs=scale, target=below["value"].to_numpy(float))
        fits = {
            "kaplan": laws[str(data), OWN_SET],
            "chinchilla": fit_many(Chinchilla(), [problem])[0],
        }
        for name, law in fits.items():
            if law.parameters:
                predicted = law.predict(N=held["params"].to_numpy(), D=held["tokens"].to_numpy())
                errors[name] += list(np.abs(predicted / held["value"].to_numpy() - 1))
    rows = [
        Comparison(
            what=f"{name}: mean error", published=published, rerun=f"{100 * np.mean(e):.2f}%"
        )
        for (name, e), published in zip(errors.items(), ("4.05%", "4.64%"), strict=True)
        if e
    ]
    return Section(title="Kempner: direct compute laws beyond the sweep", rows=rows)


def _downstream(table: pd.DataFrame, laws: Laws, cut: float) -> Section:
    """Return task losses beyond the sweep, from FineWeb-Edu's full sweep and 6-8 target runs."""
    choose = near_optimal(leave_out=[TWENTY_LAYERS])
    rows, points = [], []
    for task, published in DOWNSTREAM.items():
        for mode, x_set, number in zip(
            ("train-to-test", "test-to-test"), (OWN_SET, task), published, strict=True
        ):
            found = _downstream_errors(table, laws, choose, x_set, task, cut)
            if found.empty:
                continue
            points.append(found.assign(mode=mode))
            rerun, ours = (f"{100 * found[m].abs().mean():.1f}%" for m in ("rerun", "ours"))
            what = f"{task}, {mode}: mean error"
            rows.append(
                Comparison(what=what, published=f"{100 * number:.1f}%", rerun=rerun, ours=ours)
            )
    return Section(
        title="Kempner: task losses beyond the sweep from 6-8 runs (source FineWeb-Edu)",
        rows=rows,
        tables={"downstream": pd.concat(points, ignore_index=True)} if points else {},
    )


def _downstream_errors(
    table: pd.DataFrame, laws: Laws, choose, x_set: str, task: str, cut: float
) -> pd.DataFrame:
    """Return relative errors of the published procedure and ours on one task."""
    source = table[table["pretraining_data"] == EDU]
    rows = []
    for data, target in table.groupby("pretraining_data"):
        if data == EDU or (EDU, x_set) not in laws or task not in set(target["eval_set"]):
            continue
        pairs = pair_groups(source, target, x_set, task)
        above = pairs.flops > cut * SAME_BUDGET
        frame = pd.DataFrame({"params": pairs.params, "tokens": pairs.tokens})
        few, held = pairs[choose(frame) & ~above], pairs[above]
        if len(few) < 4 or not len(held):
            continue
        # From a task to the same task, both axes bend alike: such a line has the prior of text.
        kind = LineKind.TRAIN_TO_TASK if x_set == OWN_SET else LineKind.TEST_TO_TEST
        line = fit_line(few, kind=kind, options=LineOptions(resamples=0))
        if not line.parameters:
            continue
        old = free_floor(few, laws[EDU, x_set].parameters["E"], held.x)
        new = line.predict(held.x, tokens_per_param=held.tokens / held.params)
        rows += [
            {"target": data, "task": task, "rerun": o / y - 1, "ours": n / y - 1, "measured": y}
            for o, n, y in zip(old, new, held.y, strict=True)
        ]
    return pd.DataFrame(rows)


def free_floor(pairs: Pairs, E_x: float, x: np.ndarray) -> np.ndarray:
    """Fit the published mode ii: E_x given, K, kappa and E_y by ``curve_fit``, as released."""

    def law(x, K, kappa, E_y):
        return K * np.maximum(x - E_x, 1e-10) ** kappa + E_y

    bounds = ([0, 0, 0], [np.inf, np.inf, pairs.y.min()])
    try:
        found, _ = curve_fit(law, pairs.x, pairs.y, p0=(1, 1, 0), bounds=bounds, maxfev=20_000)
    except RuntimeError:
        return np.full(len(x), np.nan)
    return law(x, *found)


def published_translation(
    table: pd.DataFrame, source: str, target: str, choose, laws: Laws
) -> float:
    """Return R^2 of the published translation: the source's Kaplan-style law, line of mode ii."""
    names = table["pretraining_data"]
    rows = table[names == target]
    pairs = pair_groups(table[names == source], rows[choose(rows)], OWN_SET, OWN_SET)
    grid = one_set(rows, OWN_SET, "loss")
    if (source, OWN_SET) not in laws or len(pairs) < 4:
        return float("nan")
    law = laws[source, OWN_SET]
    x = law.predict(N=grid["params"].to_numpy(), D=grid["tokens"].to_numpy())
    predicted = free_floor(pairs, law.parameters["E"], x)
    return r_squared(grid["value"].to_numpy(), predicted)
