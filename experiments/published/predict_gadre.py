"""Sections of Gadre et al. (arXiv 2403.08540): 46 tasks, and the mean of 17, from smaller models.

For each pretraining set, models above 2B parameters are only predicted. Where there are none, the
set's largest size (1.4B) is predicted from the smaller ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import scores
from records import Comparison, Section

from lossline.errors import UserError
from lossline.prediction import PredictOptions, predict_table
from lossline.tables.chance import CHANCE
from lossline.tables.schema import SetKind
from lossline.tables.sweeps import import_sweep

FITTED_UP_TO = 2e9  # parameters
METHODS: tuple[str, ...] = ("fp", "gpt4", "direct", "direct_nd", "flp", "gadre", "lossline")
RESAMPLES = 200
SEVENTEEN = "mean of 17 tasks"
TASKS = (
    "bigbench_operators", "bigbench_dyck_languages", "bigbench_novel_concepts",
    "bigbench_cs_algorithms", "bigbench_qa_wikidata", "pubmed_qa_labeled", "hellaswag_zeroshot",
    "hellaswag", "boolq", "arc_easy", "coqa", "lambada_openai", "winograd", "commonsense_qa",
    "copa", "squad", "piqa",
)  # fmt: skip
NOT_MEASURED_ALIKE = ("de-en",)  # losses on these sets are not of running English text or code
# Published relative error of the error (1 - accuracy), mean of 17 tasks, percent: by part of the
# set's name, at 6.9B; at the over-trained 1.4B of RedPajama.
AT_7B = {"rpj": "0.05", "redpajama": "0.05", "c4": "0.14", "refinedweb": "2.94", "rw": "2.94"}
AT_1B = {"rpj": "3.64", "redpajama": "3.64"}
_OVER_TRAINED = 300  # D/N above which AT_1B holds


def sections(folder: Path) -> Iterator[Section]:
    """Yield a section per pretraining set."""
    files = [folder / "gadre_models.csv"]
    if (baselines := folder / "gadre_task_baselines.csv").is_file():
        files.append(baselines)
    imported = import_sweep("gadre", files)
    table = imported.table
    table = table[table["status"] == "ok"]
    for name, part in table.groupby("pretraining_data"):
        try:
            yield _one(str(name), with_mean(part))
        except UserError as mistake:  # the other sets can still be predicted
            yield Section(title=f"Gadre et al., {name}: left out", notes=[str(mistake)])


def with_mean(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the mean accuracy of the 17 tasks as a task of its own."""
    parts = table[table["eval_set"].isin(TASKS) & table["accuracy"].notna()]
    key = [parts["run_id"], parts["step"]]
    whole = parts.drop_duplicates(["run_id", "step"]).set_index(["run_id", "step"])
    columns = ["accuracy", *([CHANCE] if CHANCE in parts else [])]
    for column in columns:
        sums = parts[column].groupby(key).sum(min_count=len(TASKS))
        whole[column] = sums / len(TASKS)
    whole = whole[whole["accuracy"].notna()].reset_index().assign(eval_set=SEVENTEEN)
    return pd.concat([table, whole], ignore_index=True)


def _one(name: str, table: pd.DataFrame) -> Section:
    """Return the section of one pretraining set."""
    runs = table.drop_duplicates("run_id").set_index("run_id")["params"]
    beyond = runs > FITTED_UP_TO
    held = runs[beyond] if beyond.any() else runs[runs > 0.9 * runs.max()]
    validation = table.loc[table["kind"] == str(SetKind.VALIDATION), "eval_set"].unique()
    options = PredictOptions(
        targets=tuple(held.index),
        validation_sets=tuple(s for s in validation if s not in NOT_MEASURED_ALIKE),
        methods=METHODS,
        below_chance="predict",
        resamples=RESAMPLES,
    )
    found = predict_table(table, options)
    mean = found.predictions["task"] == SEVENTEEN
    published = AT_7B if beyond.any() else AT_1B
    number = next((text for part, text in published.items() if part in name.lower()), "")
    rows: list[Comparison] = []
    for _, part in found.predictions[mean].groupby("target", sort=False):
        ratio = float((part["tokens"] / part["params"]).iloc[0])
        known = number if beyond.any() or ratio > _OVER_TRAINED else ""
        rows += _errors(f"{SEVENTEEN}, {_scale(part)}", part, known)
    tasks = found.predictions[~mean]
    what = f"{tasks['task'].nunique()} tasks"
    rows += [
        *_errors(f"{what}, mean", tasks, ""),
        scores.errors(f"{what}, median: relative error of the accuracy, %", tasks, "", "median"),
        scores.points(f"{what}, mean: absolute error, points", tasks),
        *scores.rolling(found.backtest),
    ]
    zero = tasks.drop_duplicates(["task", "target"])["actual"].eq(0).sum()
    notes = [
        f"held out: {', '.join(f'{r} ({p / 1e9:.2g}B)' for r, p in held.items())}; "
        f"{len(runs) - len(held)} runs fitted",
        f"{zero} measured accuracies are 0: no relative error; they count in the absolute one",
        *_without_emergence(found.notes),
    ]
    key = "".join(letter if letter.isalnum() else "_" for letter in name)
    which = "models above 2B" if beyond.any() else "the largest size"
    return Section(
        title=f"Gadre et al., {name}: {which} from smaller models",
        rows=rows,
        notes=notes,
        tables={
            f"predict_gadre_{key}": found.predictions,
            f"predict_gadre_{key}_backtest": found.backtest,
        },
    )


def _errors(what: str, rows: pd.DataFrame, published: str) -> list[Comparison]:
    return [
        scores.errors(
            f"{what}: relative error of the error (1 - accuracy), %", of_error(rows), published
        ),
        scores.errors(f"{what}: relative error of the accuracy, %", rows),
    ]


def _without_emergence(notes: Sequence[str]) -> list[str]:
    """Return the notes, with one line for all tasks that are at chance."""
    at_chance = [note for note in notes if "no checkpoint is above chance" in note]
    names = ", ".join(note.partition(":")[0] for note in at_chance)
    rest = [note for note in notes if note not in at_chance]
    return [*rest, f"no checkpoint above chance: {names}"] if at_chance else rest


def of_error(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the relative error of 1 - accuracy."""
    wrong, said = 1 - rows["actual"], 1 - rows["predicted"]
    return rows.assign(relative_error=said / wrong.where(wrong > 0) - 1)


def _scale(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    return f"{first['params'] / 1e9:.2g}B, D/N {first['tokens'] / first['params']:.0f}"
