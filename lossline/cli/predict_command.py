"""Implementation of ``python -m lossline.predict``: read, predict, write a folder, print."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from lossline.cli.optimum_text import optimum_text
from lossline.cli.table_inputs import (
    BadRows,
    as_paths,
    fingerprint_of,
    provenance,
    read_table,
    say_since,
)
from lossline.errors import UserError
from lossline.fits.mixture_predictor import MixturePredictor, load_any_predictor
from lossline.fits.optimum import TableOptimum, best_mixture_of_table
from lossline.fits.prediction_files import PREDICT_FOLDER, save_predictions
from lossline.fits.prediction_summary import summary
from lossline.fits.table_predictions import predict_runs
from lossline.mixtures.catalogue import DEFAULT as DEFAULT_LAW
from lossline.mixtures.limits import Limits
from lossline.mixtures.optimum import Pull
from lossline.options.identity import not_identity
from lossline.places import to_path
from lossline.prediction import PredictOptions, Predictor
from lossline.prediction.methods import DEFAULT
from lossline.prediction.predict import projection, rows_to_use
from lossline.prediction.predictor import verdict
from lossline.prediction.results import (
    BACKTEST_COLUMNS,
    CURVE_COLUMNS,
    DECISION_COLUMNS,
    INFLUENCE_COLUMNS,
    POINT_COLUMNS,
    PREDICTION_COLUMNS,
    STAGE_COLUMNS,
    Predictions,
    TargetKind,
)
from lossline.tables.continued import left_out_of_laws
from lossline.tables.frames import nearest_names

# Packages whose code the results depend on.
_ROOMS = ("tables", "options", "laws", "lines", "matching", "prediction", "mixtures", "fits")
_FORM = '"7e9 4e12": parameters, then tokens; of a mixture "7e9 4e12 web=0.8 code=0.2"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictCommand(PredictOptions):
    """Options of ``lossline.predict``: those of ``PredictOptions``, and these.

    Attributes:
        table: loss tables, run directories or folders of run directories.
        out: folder for the results; must be given with ``table``.
        predictor: ``predictor.json`` that an earlier prediction wrote, in place of ``table``.
        points: models that nobody has trained: (N, D), (N, D, {component: share}), or the same as
            text: "7e9 4e12", "7e9 4e12 web=0.8 code=0.2".
        replace: whether to replace an earlier prediction of other inputs at ``out``; other folders
            are never replaced.
        mixtures: whether runs that differ in their mixtures get laws of mixtures, which predict
            losses. False: laws of scale alone.
        optimum: targets (validation sets or tasks) to print the best mixture for, in place of
            predictions. The training that it is for is the point, else the largest run.
        weights: weights of several such targets; 1 if not named.
        law: law of mixtures for the optimum.
        limits: bounds of the optimum's shares.
        pull: pull of the optimum toward a mixture.
        stores: token store of each component, to be printed with the optimum.
        bad_rows: "exclude" (default): leave bad rows out, print one line for each kind, and use the
            rest. "refuse": stop if the table has any.
        report: whether to make figures and report.html.
    """

    table: str | tuple[str, ...] = not_identity(())
    out: str = not_identity("")
    predictor: str = not_identity("")
    points: tuple[Any, ...] = ()
    replace: bool = not_identity(False)
    mixtures: bool = True
    optimum: tuple[str, ...] = ()
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    law: str = DEFAULT_LAW.name
    limits: Limits = dataclasses.field(default_factory=Limits)
    pull: Pull | None = None
    stores: dict[str, str] = dataclasses.field(default_factory=dict)
    bad_rows: BadRows = BadRows.EXCLUDE
    report: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "points", tuple(map(parse_point, self.points)))
        if bool(self.table) == bool(self.predictor):
            raise UserError(
                "predict: give one of --table, to fit and predict, and --predictor, to predict "
                "with what an earlier prediction fitted."
            )
        if self.table and not self.optimum and not self.out:
            raise UserError("missing binding: predict.out. Add --out=FOLDER for the results.")
        if self.optimum:
            self._check_optimum()
        if self.predictor and not self.points:
            raise UserError(f"predict: --predictor needs --point {_FORM}.")
        if self.predictor and (
            unused := [n for n in ("targets", "above_flops", "exclude", "out") if getattr(self, n)]
        ):
            raise UserError(
                f"predict.{unused[0]} has no effect with --predictor, which only prints points. "
                "Leave it out, or give --table instead."
            )  # fmt: skip

    def _check_optimum(self) -> None:
        unused = [n for n in ("predictor", "out", "targets", "above_flops") if getattr(self, n)]
        if unused:
            raise UserError(
                f"predict.{unused[0]} has no effect with --optimum, which only prints the best "
                "mixture of a table. Leave one of the two out."
            )
        if len(self.points) > 1:
            raise UserError(
                f"--optimum is for one training, and {len(self.points)} points are given. Give one."
            )
        if unknown := sorted(set(self.weights) - set(self.optimum)):
            raise UserError(
                f"predict.weights: {unknown[0]!r} is not among the targets of --optimum "
                f"({', '.join(self.optimum)}). Correct one of the two."
            )


def parse_point(point: Any) -> tuple[Any, ...]:
    """Return (N, D) or (N, D, {component: share}) from numbers or from text.

    Args:
        point: a sequence of numbers, optionally with a dictionary; or "7e9 4e12 web=0.8 code=0.2".

    Raises:
        UserError: the point has another form.
    """
    words = point.split() if isinstance(point, str) else list(point) if _listed(point) else []
    shares: dict[str, float] = {}
    try:
        for word in words[2:]:
            if isinstance(word, Mapping):
                shares |= {str(name): float(share) for name, share in word.items()}
            else:
                name, _, share = str(word).rpartition("=")
                shares[name] = float(share)
        params, tokens = float(words[0]), float(words[1])
    except (ValueError, IndexError, TypeError):
        raise UserError(f"predict.points: {point!r} is no point. Write {_FORM}.") from None
    return (params, tokens, shares) if shares else (params, tokens)


def _listed(point: Any) -> bool:
    return isinstance(point, (list, tuple))


def predict(options: PredictCommand) -> Predictions | TableOptimum | None:
    """Predict from a table into a folder, or print points or the best mixture.

    Returns:
        The results; None if the folder is up to date.

    Raises:
        UserError: the table, the predictor or an option is wrong, or ``out`` contains something
            else.
    """
    if options.optimum:
        return print_optimum(options)
    if options.predictor:
        found = project(load_any_predictor(options.predictor), options.points)
        print(summary(found))
        return found
    return predict_to_folder(options)


def print_optimum(options: PredictCommand) -> TableOptimum:
    """Print the best mixture and its gin bindings (see ``predict``)."""
    table, _ = read_table(as_paths(options.table), options.bad_rows)
    _check_chance(table, options)
    point = projection(options.points[0]) if options.points else None
    if point and point.shares:
        raise UserError(
            f"predict.points: {point.name} has shares, but --optimum finds the shares. Leave them "
            "out."
        )
    found = best_mixture_of_table(
        rows_to_use(table, options),
        {name: options.weights.get(name, 1.0) for name in options.optimum},
        params=point.params if point else None,
        tokens=point.tokens if point else None,
        law=options.law,
        limits=options.limits,
        pull=options.pull,
        chance=options.chance,
        resamples=options.resamples,
        seed=options.seed,
    )
    if left_out := left_out_of_laws(table):
        found = dataclasses.replace(found, notes=(left_out, *found.notes))
    print(optimum_text(found, options.stores))
    return found


def project(
    predictor: Predictor | MixturePredictor, points: Sequence[tuple[Any, ...]]
) -> Predictions:
    """Return projections of points by an earlier predictor; all other parts are empty.

    Args:
        predictor: the fitted methods.
        points: (N, D) each; with shares for laws of mixtures.

    Raises:
        UserError: a point has shares for laws of scale, none for laws of mixtures, or numbers that
            are not positive.
    """
    parts = []
    for point in points:
        target = projection(point)
        if isinstance(predictor, MixturePredictor):
            if not target.shares:
                raise UserError(
                    f"predict.points: {target.name}: the predictor was fitted to runs on mixtures; "
                    f"a point needs shares. Write {_FORM}."
                )
            found = predictor.predict(target.params, target.tokens, target.shares)
            text = ", ".join(f"{name} {share:g}" for name, share in target.shares.items())
            parts.append(found.assign(target=f"{target.name}, {text}"))
            continue
        if target.shares:
            raise UserError(
                f"predict.points: {target.name} has shares, but the predictor was fitted to scale "
                "alone. Leave the shares out."
            )
        parts.append(predictor.predict(target.params, target.tokens).assign(target=target.name))
    rows = pd.concat(parts, ignore_index=True)
    verdicts = pd.DataFrame([verdict(row) for row in rows.to_dict("records")])
    rows = rows.join(verdicts).assign(kind=str(TargetKind.PROJECTION))
    methods = rows["method"].unique()
    return Predictions(
        predictions=rows.reindex(columns=list(PREDICTION_COLUMNS)),
        backtest=pd.DataFrame(columns=list(BACKTEST_COLUMNS)),
        influence=pd.DataFrame(columns=list(INFLUENCE_COLUMNS)),
        points=pd.DataFrame(columns=list(POINT_COLUMNS)),
        curves=pd.DataFrame(columns=list(CURVE_COLUMNS)),
        stages=pd.DataFrame(columns=list(STAGE_COLUMNS)),
        decisions=pd.DataFrame(columns=list(DECISION_COLUMNS)),
        default=DEFAULT if DEFAULT in methods else str(methods[0]),
        predictor=predictor.tree,
    )


def predict_to_folder(options: PredictCommand) -> Predictions | None:
    """Predict, write the folder and print the summary (see ``predict``)."""
    out = to_path(options.out, "predict.out")
    paths = as_paths(options.table)
    table, dropped = read_table(paths, options.bad_rows)
    _check_chance(table, options)
    fingerprint = predict_fingerprint(table, options)
    if PREDICT_FOLDER.is_up_to_date(out, fingerprint, replace=options.replace):
        print((out / "summary.txt").read_text(encoding="utf-8").rstrip())
        print(f"{out} is up to date")
        return None
    started = time.monotonic()
    # Open the folder before fitting, so that an unwritable path is reported at once.
    with PREDICT_FOLDER.writing(out, fingerprint) as partial:
        say = functools.partial(say_since, started)
        found = predict_runs(table, _settings(options), mixtures=options.mixtures, say=say)
        found = dataclasses.replace(found, notes=(*_dropped(dropped), *found.notes))
        about = provenance("predict", paths, fingerprint)
        save_predictions(found, partial, about)
        text = summary(found)
        (partial / "summary.txt").write_text(text + "\n", encoding="utf-8")
        if options.report:
            from lossline.reporting.predictions import write_prediction_report

            say("figures and report")
            write_prediction_report(found, partial, provenance=about, say=say)
    print(text)
    print(f"Results: {out / 'report.html' if options.report else out}", flush=True)
    return found


def _check_chance(table: pd.DataFrame, options: PredictCommand) -> None:
    """Raise UserError if ``options.chance`` names a set that the table does not have."""
    known = sorted(table["eval_set"].dropna().astype(str).unique())
    if missing := sorted(set(options.chance) - set(known)):
        raise UserError(
            f"predict.chance: the table has no task {missing[0]!r}. Near names: "
            f"{nearest_names(missing[0], known) or 'none'}."
        )


def predict_fingerprint(table: pd.DataFrame, options: PredictCommand) -> str:
    """Return the SHA-256 (hex) of the table, the options and the code that predicts."""
    return fingerprint_of(table, options, _ROOMS)


def _settings(options: PredictCommand) -> PredictOptions:
    """Return the options of the prediction alone."""
    names = [field.name for field in dataclasses.fields(PredictOptions)]
    return PredictOptions(**{name: getattr(options, name) for name in names})


def _dropped(rows: pd.DataFrame) -> list[str]:
    return [f"{row.what}: {row.reason}" for row in rows.itertuples()]
