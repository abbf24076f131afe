"""Section of the OLMo ladder: accuracy of eight tasks at 1B, 3B, 7B and 13B from smaller models.

The ladder's runs up to 1.3B parameters (called 1B), without those of half the Chinchilla tokens,
are fitted. Larger models are only predicted: the size 3B, the annealed run of peteish7, and
peteish13 (the mean of its last five rows; one evaluation is noisy). Without them, their published
sizes are projected. In any case 1B is predicted from the smaller sizes.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import scores
from records import Comparison, Section, named

from lossline.errors import UserError
from lossline.prediction import PredictOptions, predict_table
from lossline.prediction.results import Predictions
from lossline.tables.schema import SetKind
from lossline.tables.sweeps import import_sweep

FITTED_UP_TO = 1.5e9  # parameters
FITTED_FROM = 1.8e8
METHODS: tuple[str, ...] = ()  # all
RESAMPLES = 1000
_HALF = "0.5x"  # in the names of the runs that are not fitted

# Name -> evaluation set and accuracy of guessing.
TASKS = {
    "HellaSwag": ("hellaswag_val_rc_5shot", 1 / 4),
    "ARC-C": ("arc_challenge_test_rc_5shot", 1 / 4),
    "ARC-E": ("arc_easy_test_rc_5shot", 1 / 4),
    "PIQA": ("piqa_val_rc_5shot", 1 / 2),
    "CSQA": ("csqa_val_rc_5shot", 1 / 5),
    "SIQA": ("socialiqa_val_rc_5shot", 1 / 3),
    "OBQA": ("openbookqa_test_rc_5shot", 1 / 4),
}
MMLU = "MMLU"
MMLU_PARTS = {
    "mmlu_stem_test_rc_5shot": 0.215,
    "mmlu_humanities_test_rc_5shot": 0.335,
    "mmlu_social_sciences_test_rc_5shot": 0.219,
    "mmlu_other_test_rc_5shot": 0.231,
}
CHANCE = {MMLU: 1 / 4, **{task: chance for task, (_, chance) in TASKS.items()}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Large:
    """A model that is only predicted, as the ladder's paper describes it.

    Attributes:
        label: its size.
        within: parameters of the models of this size, from and below.
        params: N.
        tokens: D of the target; None where the size has several runs.
        flops_per_token: C / D.
        rows: rows of its run that are averaged.
        published: mean relative error of the paper, percent.
        tasks: the same by task.
    """

    label: str
    within: tuple[float, float]
    params: float
    tokens: float | None
    flops_per_token: float
    rows: int = 1
    published: str = ""
    tasks: dict[str, str] = dataclasses.field(default_factory=dict)


LARGE = (
    Large(
        label="3B",
        within=(FITTED_UP_TO, 5e9),
        params=3.2e9,
        tokens=None,
        flops_per_token=22970355200,
    ),
    Large(
        label="7B",
        within=(5e9, 1e10),
        params=6.9e9,
        tokens=3.95e12,
        flops_per_token=49412071424,
        published="5.85",
    ),
    Large(
        label="13B",
        within=(1e10, 2e10),
        params=1.32e10,
        tokens=5e12,
        flops_per_token=91335915520,
        rows=5,
        published="6.04",
        tasks={
            MMLU: "0.67",
            "HellaSwag": "2.5",
            "ARC-C": "17.5",
            "ARC-E": "11.4",
            "PIQA": "1.1",
            "CSQA": "4.7",
            "SIQA": "2.7",
            "OBQA": "7.8",
        },
    ),
)


def sections(folder: Path) -> list[Section]:
    """Return the sections of the ladder."""
    frame, notes = completed(pd.read_csv(folder / "olmo_ladder.csv", low_memory=False))
    with tempfile.TemporaryDirectory() as place:
        frame.to_csv(Path(place) / "olmo_ladder.csv", index=False)
        imported = import_sweep("olmo_ladder", Path(place) / "olmo_ladder.csv")
    table = eight_tasks(imported.table[imported.table["status"] == "ok"])
    size = table["params"]
    small = size.between(FITTED_FROM, FITTED_UP_TO) & ~table["run_id"].str.contains(_HALF)
    if size[small].nunique() < 2:
        raise UserError("olmo_ladder.csv has fewer than two sizes to fit")
    fitted = table[small]
    return [_one_b(fitted), *_larger(fitted, table[size > FITTED_UP_TO], notes)]


def completed(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the file's rows with the paper's scale where the larger models have none; notes."""
    if missing := [name for name in ("run", "step") if name not in frame]:
        raise UserError(f"olmo_ladder.csv: column {missing[0]!r} is missing")
    notes = []
    frame = frame.copy()
    sizes = frame["size"].astype("string").fillna("") if "size" in frame else ""
    name = (frame["run"].astype("string") + " " + sizes).str.lower()
    for column in ("params", "tokens", "flops_per_token"):
        given = frame[column] if column in frame else pd.Series(np.nan, frame.index)
        frame[column] = pd.to_numeric(given, errors="coerce")
    for large in LARGE:
        number = large.label.removesuffix("B")
        called = name.str.contains(rf"peteish-?{number}(?!\d)|(?<![\d.]){number}b\b", regex=True)
        is_one = frame["params"].between(*large.within) | (frame["params"].isna() & called)
        empty = {column: is_one & frame[column].isna() for column in ("params", "flops_per_token")}
        if large.tokens:
            # An annealed run may count tokens from its own start.
            last = frame["tokens"].groupby(frame["run"]).transform("max")
            empty["tokens"] = is_one & ~(last > large.tokens / 4)
        for column, rows in empty.items():
            frame.loc[rows, column] = getattr(large, column)
            if rows.any():
                notes.append(f"{named(frame.loc[rows, 'run'])}: {column} as in the paper")
    return frame, notes


def eight_tasks(table: pd.DataFrame) -> pd.DataFrame:
    """Return validation losses and the eight tasks, MMLU as the weighted mean of its parts."""
    names = {eval_set: task for task, (eval_set, _) in TASKS.items()}
    tasks = table[table["eval_set"].isin(names)]
    parts = table[table["eval_set"].isin(MMLU_PARTS)]
    parts = parts.drop_duplicates(["run_id", "step", "eval_set"])
    weight = parts["eval_set"].map(MMLU_PARTS).astype(float)
    key = [parts["run_id"], parts["step"]]
    whole = parts.drop_duplicates(["run_id", "step"]).set_index(["run_id", "step"])
    for column in ("accuracy", "bits_per_byte"):
        # A mean without one of the four parts would be another quantity.
        whole[column] = (weight * parts[column]).groupby(key).sum(min_count=len(MMLU_PARTS))
    return pd.concat(
        [
            table[table["kind"] == str(SetKind.VALIDATION)],
            tasks.assign(eval_set=tasks["eval_set"].map(names)),
            whole.reset_index().assign(eval_set=MMLU),
        ],
        ignore_index=True,
    )


def _one_b(fitted: pd.DataFrame) -> Section:
    """Return the section that predicts the largest fitted size from the smaller ones."""
    largest = fitted["params"].max()
    held = fitted.loc[fitted["params"] > 0.9 * largest, "run_id"].unique()
    found = predict_table(fitted, dataclasses.replace(_options(), targets=tuple(held)))
    rows = found.predictions
    return Section(
        title=f"OLMo ladder: {largest / 1e9:.1f}B ({len(held)} runs) from smaller sizes, percent",
        rows=[
            *_errors("mean of eight tasks", rows),
            *_by_task(rows, {}),
            *scores.rolling(found.backtest),
        ],
        notes=found.notes,
        tables=_tables("1b", found),
    )


def _options() -> PredictOptions:
    return PredictOptions(chance=CHANCE, methods=METHODS, resamples=RESAMPLES)


def _larger(fitted: pd.DataFrame, large: pd.DataFrame, notes: Sequence[str]) -> list[Section]:
    """Return the section of the models beyond the ladder."""
    notes = list(notes)
    targets = []
    for model in LARGE:
        runs = large[large["params"].between(*model.within)]
        chosen = target_runs(sorted(runs["run_id"].unique()), runs, model)
        if left := set(runs["run_id"]) - set(chosen):
            notes.append(f"{named(left)}: not a target; neither fitted nor predicted")
        targets += [last_rows(runs[runs["run_id"] == run], model.rows) for run in chosen]
    options = _options()
    if targets:
        held = pd.concat(targets)
        options = dataclasses.replace(options, targets=tuple(held["run_id"].unique()))
        fitted = pd.concat([fitted, held], ignore_index=True)
    else:
        points = tuple((model.params, model.tokens) for model in LARGE if model.tokens)
        options = dataclasses.replace(options, points=points)
    found = predict_table(fitted, options)
    predictions = found.predictions
    rows: list[Comparison] = []
    for model in LARGE:
        part = predictions[predictions["params"].between(*model.within)]
        if not len(part):
            continue
        if part["actual"].isna().all():
            rows += _projected(model, part)
            continue
        rows += _errors(f"{model.label}: mean of eight tasks", part, model.published)
        rows += _by_task(part, model.tasks, f"{model.label}, ")
    what = "larger models, percent" if targets else "larger models, projected (none is in the file)"
    return [
        Section(
            title=f"OLMo ladder: {what}",
            rows=[*rows, *scores.rolling(found.backtest)],
            notes=[*notes, *found.notes],
            tables=_tables("larger", found),
        )
    ]


def target_runs(names: Sequence[str], rows: pd.DataFrame, model: Large) -> list[str]:
    """Return the runs of a size that are predicted.

    The smaller size has several. Of a final model it is the annealed run, or the one with the most
    tokens.
    """
    if model.tokens is None or len(names) < 2:
        return list(names)
    annealed = [name for name in names if "anneal" in name.lower() or "final" in name.lower()]
    among = rows[rows["run_id"].isin(annealed or names)]
    return [str(among.loc[among["tokens"].idxmax(), "run_id"])]


def last_rows(run: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return one row per evaluation set: the mean of its last ``count`` rows with a value."""
    run = run.sort_values("step")
    last = run.iloc[-1]
    rows = []
    for _, part in run.groupby("eval_set", sort=False):
        part = part[part["accuracy"].notna() | part["loss"].notna()]
        if len(part):
            means = part.tail(count)[["accuracy", "bits_per_byte", "loss"]].mean()
            rows.append({**part.iloc[-1], **means, **last[["step", "tokens", "flops"]]})
    return pd.DataFrame(rows, columns=run.columns)


def _errors(what: str, rows: pd.DataFrame, published: str = "") -> list[Comparison]:
    return [
        scores.errors(what, rows, published),
        scores.errors(f"{what}, worst prediction", rows, statistic="max"),
        scores.points(f"{what}, points of accuracy", rows),
    ]


def _by_task(rows: pd.DataFrame, published: dict[str, str], where: str = "") -> list[Comparison]:
    return [
        scores.errors(f"{where}{task}", part, published.get(str(task), ""))
        for task, part in rows.groupby("task", sort=False)
    ]


def _projected(model: Large, rows: pd.DataFrame) -> list[Comparison]:
    """Return the accuracies that each method projects, percent."""
    found = []
    for task, part in rows.groupby("task", sort=False):
        texts = {
            str(row.method): f"{100 * row.predicted:.1f}"
            for row in part[part["predicted"].notna()].itertuples()
        }
        found.append(scores.compared(f"{model.label}, {task}: accuracy", texts))
    return found


def _tables(name: str, found: Predictions) -> dict[str, pd.DataFrame]:
    return {
        f"predict_ladder_{name}": found.predictions,
        f"predict_ladder_{name}_backtest": found.backtest,
    }
