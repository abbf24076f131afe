"""Sections of Gadre et al., Besiroglu et al., and the public models of Mayilvahanan et al.

arXiv 2403.08540, 2404.10102 and 2502.12120.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from records import Comparison, Section

from lossline.attribution import attribute
from lossline.attribution.results import Attribution, Effect, Verdict
from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla, OverTrainingByParams, hoffmann_starts
from lossline.laws.forms import ErrorLaw
from lossline.laws.objective import LEAST_SQUARES
from lossline.laws.results import FitResult
from lossline.laws.solver import FitOptions, fit
from lossline.lines.fitting import LineKind, LineOptions, fit_line, r_squared
from lossline.prediction.gadre import loss_and_error, predict_error
from lossline.reporting.charts import p_text
from lossline.reporting.published import GADRE_TASKS
from lossline.tables.pairing import pair_checkpoints
from lossline.tables.sweeps import import_sweep

PLAIN = FitOptions(objective=LEAST_SQUARES)

# --- Gadre et al. ---------------------------------------------------------------------------------

FITTED_UP_TO = 2e9  # parameters; larger models are only predicted
C4_EVAL = "c4_val"
# |Relative error| published for 6.9B at M = 20 (loss, error), by pretraining set.
LARGEST_MODEL = {"c4": (0.0430, 0.0014), "rpj": (0.0073, 0.0005), "rw": (0.0162, 0.0294)}
OVER_TRAINED = (0.0071, 0.0364)  # RedPajama, 1.4B at M = 640


def gadre(folder: Path) -> list[Section]:
    """Return the section of Gadre et al.: loss and error of the held-out models."""
    imported = import_sweep("gadre", folder / "gadre_models.csv")
    table, notes = imported.table, list(imported.notes)
    rows: list[Comparison] = []
    points = []
    for data, part in table.groupby("pretraining_data"):
        try:
            runs = loss_and_error(part, C4_EVAL, GADRE_TASKS)
            runs["M"] = runs["tokens"] / runs["params"]
            large = runs["params"] > FITTED_UP_TO
            step = large if large.any() else runs["params"] > 0.9 * runs["params"].max()
            points.append(_gadre_errors(str(data), runs[~step], runs[step]))
        except UserError as mistake:
            notes.append(f"{data}: left out: {mistake}")
    if not points:
        raise UserError("; ".join(notes) or "gadre_models.csv names no pretraining set")
    frame = pd.concat(points, ignore_index=True)
    for row in frame.itertuples():
        for what in ("loss", "error"):
            rerun, ours = (getattr(row, f"{who}_{what}") for who in ("published", "ours"))
            rows.append(
                Comparison(
                    what=f"{row.data} {row.params / 1e9:.1f}B M={row.M:.0f}: {what}",
                    published=_published_gadre(row, what),
                    rerun=_percent(rerun),
                    ours=_percent(ours),
                )
            )
    for what in ("loss", "error"):
        rerun, ours = (frame[f"{who}_{what}"].abs().mean() for who in ("published", "ours"))
        rows.append(Comparison(what=f"mean |{what}|", rerun=_percent(rerun), ours=_percent(ours)))
    title = "Gadre: models beyond those fitted, loss on C4 and 17-task error (relative error)"
    return [Section(title=title, rows=rows, notes=notes, tables={"gadre": frame})]


def _percent(share: float) -> str:
    """Return a share in percent; empty for NaN."""
    return "" if not np.isfinite(share) else f"{100 * share:.2f}%"


def _published_gadre(row, what: str) -> str:
    """Return |relative error| in the paper, empty if it has none for this model."""
    at = 0 if what == "loss" else 1
    if row.params > FITTED_UP_TO:
        for prefix, errors in LARGEST_MODEL.items():
            if str(row.data).lower().startswith(prefix):
                return _percent(errors[at])
    if str(row.data).startswith("rpj") and abs(row.M - 640) < 1 and row.params > 1e9:
        return _percent(OVER_TRAINED[at])
    return ""


def _gadre_errors(data: str, fitted: pd.DataFrame, held: pd.DataFrame) -> pd.DataFrame:
    """Return relative errors of the published laws and ours on the held-out models."""
    N, D = held["params"].to_numpy(), held["tokens"].to_numpy()
    found = predict_error(fitted)
    loss_law, error_law = published_laws(fitted)
    old_loss = loss_law.predict(N=N, M=D / N)
    columns = {"data": data, "params": N, "tokens": D, "M": D / N}
    for who, loss, error in (
        ("published", old_loss, error_law.predict(x=old_loss)),
        ("ours", found.loss(N=N, D=D), found.error(N=N, D=D)),
    ):
        columns[f"{who}_loss"] = loss / held["loss"].to_numpy() - 1
        columns[f"{who}_error"] = error / held["error"].to_numpy() - 1
    return pd.DataFrame(columns)


def published_laws(fitted: pd.DataFrame, least: int = 5) -> tuple[FitResult, FitResult]:
    """Return the published loss law and error law.

    The loss law goes through five runs: four sizes at M = 20 and the smallest at 320. The error law
    goes through these and, if it may be fitted, 1.4B at M = 20.

    Args:
        fitted: columns params, tokens, M, loss and error.
        least: fewest runs of the loss law, 5 as published; 4 of them still determine it.

    Raises:
        UserError: the table has fewer of these runs.
    """

    def at(ratio: float) -> pd.Series:
        return (fitted["M"] / ratio - 1).abs() < 0.01

    small = fitted["params"] < 1e9
    five = (at(20) & small) | (at(320) & (fitted["params"] < 2e7))
    six = five | (at(20) & ~small)
    if five.sum() < least:
        raise UserError(f"{five.sum()} of the five runs of the published loss law found")
    scale = {n: fitted.loc[five, c].to_numpy() for n, c in (("N", "params"), ("M", "M"))}
    loss_law = fit(
        OverTrainingByParams(), scale, fitted.loc[five, "loss"].to_numpy(), options=PLAIN
    )
    both = fitted[six].dropna(subset=["error"])
    x = {"x": both["loss"].to_numpy()}
    return loss_law, fit(ErrorLaw(), x, both["error"].to_numpy(), options=PLAIN)


# --- Besiroglu et al. -----------------------------------------------------------------------------

EPOCH = {"E": 1.8172, "A": 477.84, "B": 2143.86, "alpha": 0.3473, "beta": 0.3672}
OBJECTIVE = 1.018274e-3


def chinchilla(folder: Path) -> list[Section]:
    """Return the section of Besiroglu et al.: Chinchilla's law on 240 points."""
    imported = import_sweep("chinchilla", folder / "chinchilla_points.csv")
    frame = imported.table[imported.table["status"] == "ok"]
    if len(frame) < 10:
        raise UserError(f"chinchilla_points.csv has {len(frame)} points, too few for a law")
    frame = frame.sort_values("loss").iloc[:-5]  # as published: without the 5 highest losses
    inputs = {n: frame[c].to_numpy(float) for n, c in (("N", "params"), ("D", "tokens"))}
    loss = frame["loss"].to_numpy(float)
    rerun = fit(Chinchilla(), inputs, loss, starts=hoffmann_starts())
    ours = fit(Chinchilla(), inputs, loss)
    rows = [
        Comparison(what=name, published=f"{value}", rerun=f"{rerun.parameters[name]:.4f}",
                   ours=f"{ours.parameters[name]:.4f}")
        for name, value in EPOCH.items()
    ]  # fmt: skip
    rows.append(
        Comparison(what="objective", published=f"{OBJECTIVE:.6e}", rerun=f"{rerun.objective:.6e}",
                   ours=f"{ours.objective:.6e}")
    )  # fmt: skip
    note = f"re-run: {rerun.starts:,} published starts; ours: {ours.starts} projected starts"
    title = f"Chinchilla: {len(loss)} points of figure 4"
    return [Section(title=title, rows=rows, notes=[note, *imported.notes])]


# --- Mayilvahanan et al. --------------------------------------------------------------------------

# R2 of a straight line FineWeb-Edu -> y over the public models trained on the Pile (METHODS 1.6).
PILE = {
    "C4": 1.000, "HellaSwag": 0.996, "Winogrande": 0.991, "PIQA": 0.991, "OpenBookQA": 0.981,
    "ARC-Easy": 0.913, "ARC-Challenge": 0.929, "COPA": 0.807,
}  # fmt: skip
X_SET = "FineWeb-Edu"
WHAT_MOVES = "LLMs on the Line: what moves the lines of the public models"
LEVEL = 0.05  # of corrected p-values


def llm_line(folder: Path) -> list[Section]:
    """Return the section of Mayilvahanan et al.: the lines of the public models."""
    imported = import_sweep("llm_line", folder / "llm_line_hf.csv")
    table, notes = imported.table, list(imported.notes)
    names = sorted(table["eval_set"].unique())
    x_set = _named(names, X_SET)
    pile = table[table["pretraining_data"] == "The Pile"]
    rows = []
    for name, published in PILE.items():
        y_set = _named(names, name)
        pairs = pair_checkpoints(pile, x_set, y_set)
        if len(pairs) < 4:
            notes.append(f"{x_set} -> {y_set} on the Pile: {len(pairs)} models; left out")
            continue
        straight = np.polyval(np.polyfit(pairs.x, pairs.y, 1), pairs.x)
        kind = LineKind.VALIDATION_TO_TASK if name != "C4" else LineKind.OTHER
        line = fit_line(pairs, kind=kind, options=LineOptions(resamples=0))
        rerun = f"{r_squared(pairs.y, straight):.3f}"
        what = f"R2 {x_set} -> {y_set}, {len(pairs)} models"
        rows.append(
            Comparison(what=what, published=f"{published:.3f}", rerun=rerun, ours=f"{line.r2:.3f}")
        )
    title = "LLMs on the Line: public models on the Pile (published and re-run: straight line)"
    return [Section(title=title, rows=rows, notes=notes), what_moves(attribute(table))]


def what_moves(found: Attribution) -> Section:
    """Return which factors move the lines of the public models.

    Per factor and unit it has the smallest p-value of "one line for all levels" over the y sets,
    corrected for all comparisons of that unit.
    """
    if not found.factors:
        return Section(title=WHAT_MOVES, notes=[found.message])
    rows = []
    for factor in found.factors:
        for unit, name in (("loss", "nats per token"), ("bits_per_byte", "bits per byte")):
            effects = [effect for effect in factor.effects if effect.unit == unit]
            p_values = [e.p_corrected for e in effects if np.isfinite(e.p_corrected)]
            if p_values:
                significant = sum(p < LEVEL for p in p_values)
                count = f"significant on {significant} of {len(p_values)} sets"
                ours = f"{p_text(min(p_values))}; {count}; "
                ours += _behind(effects)
                rows.append(Comparison(what=f"{factor.label}, {name}", ours=ours))
    tables = {"llm_line_attribution": found.summary()}
    effects = found.effects()
    if len(effects):
        tables["llm_line_p_values"] = effects
    notes = [_conclusion(found), *(factor.sentence for factor in found.factors if factor.sentence)]
    return Section(title=WHAT_MOVES, rows=rows, notes=notes, tables=tables)


def _behind(effects: Sequence[Effect]) -> str:
    """Return the data of the smallest p-value: matched runs, and the source of run-to-run noise."""
    best = min(
        (e for e in effects if np.isfinite(e.p_corrected)), key=lambda effect: effect.p_corrected
    )
    text = f"{best.runs} runs in {best.groups} matched group{'s' if best.groups > 1 else ''}"
    borrowed = best.noise_from == "borrowed"
    whose = (
        "3 times that of other runs, because so few cannot show it"
        if borrowed
        else "of these groups"
    )
    return f"{text}, run-to-run noise {whose} ({best.degrees:.0f} degrees of freedom)"


def _conclusion(found: Attribution) -> str:
    """Return one sentence from the verdicts."""

    def labels(*verdicts: Verdict) -> str:
        return ", ".join(f.label for f in found.factors if f.verdict in verdicts)

    moves = labels(Verdict.MOVES, Verdict.BY_GROUP) or "nothing"
    parts = [f"moved by {moves}"]
    more = {
        Verdict.PROVISIONAL: "moved, if all runs vary alike, by",
        Verdict.PER_TOKEN: "moved per token only (per byte within the margin) by",
        Verdict.BELOW: "moved by less than the margin by",
        Verdict.NO_MOVE: "not moved, within the margin, by",
    }
    parts += [f"{words} {labels(verdict)}" for verdict, words in more.items() if labels(verdict)]
    tested = labels(Verdict.UNRESOLVED)
    parts.append(f"tested, inconclusive: {tested or 'nothing else'}")
    confounded = [
        f"{factor.label} ({factor.message})"
        for factor in found.factors
        if factor.verdict is Verdict.CONFOUNDED
    ]
    if confounded:
        parts.append(f"cannot be tested separately: {', '.join(confounded)}")
    return "Lines are " + "; ".join(parts) + "."


def _named(names: list[str], wanted: str) -> str:
    """Return the evaluation set of a name, ignoring spaces, hyphens and case."""

    def bare(text: str) -> str:
        return "".join(c for c in text.lower() if c.isalnum())

    for name in names:
        if bare(name) == bare(wanted):
            return name
    raise UserError(f"llm_line: no evaluation set {wanted!r}; the table has {', '.join(names)}.")
