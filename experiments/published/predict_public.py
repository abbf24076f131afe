"""Section of public models (ObsScaling, arXiv 2405.10938): eight benchmarks from smaller models.

No losses: laws from scale to accuracy, ours with a level of its own for each family. Models above
8.4e22 FLOPs are only predicted; without such models those above 2e22.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import scores
from records import Section

from lossline.errors import UserError
from lossline.prediction import PredictOptions, predict_table
from lossline.tables.schema import SetKind

FILE = "public_models_benchmarks.csv"
BEYOND, LARGE = 8.4e22, 2e22  # FLOPs
_NEXT_BUDGET = 1.001  # the largest fitted budget is printed with few digits
FAMILY = "factor.family"
METHODS = ("fp", "gpt4", "direct", "lossline")
# Accuracy of guessing. TruthfulQA is a mean over probabilities and has none that is known.
CHANCE = {
    "MMLU": 1 / 4, "ARC-C": 1 / 4, "HellaSwag": 1 / 4, "Winograd": 1 / 2, "XWinograd": 1 / 2,
    "GSM8K": 0.0, "HumanEval": 0.0, "TruthfulQA": 0.0,
}  # fmt: skip
_COLUMNS = ("Model", "Model Family", "Model Size (B)", "Pretraining Data Size (T)", "FLOPs (1E21)")


def sections(folder: Path) -> list[Section]:
    """Return the section of public models."""
    frame = pd.read_csv(folder / FILE)
    if missing := [name for name in _COLUMNS if name not in frame]:
        raise UserError(f"{FILE}: column {missing[0]!r} is missing")
    table, empty = loss_table(frame)
    largest = table["flops"].max()
    cut = BEYOND * _NEXT_BUDGET if largest > BEYOND * _NEXT_BUDGET else LARGE
    options = PredictOptions(
        above_flops=cut, family=FAMILY, methods=METHODS, chance=CHANCE, below_chance="predict"
    )
    found = predict_table(table, options)
    rows = found.predictions
    count = rows["target"].nunique()
    zero = rows.drop_duplicates(["task", "target"])["actual"].eq(0).sum()
    return [
        Section(
            title=f"Public models: {count} above {cut:.2g} FLOPs from smaller ones",
            rows=[
                scores.errors("mean relative error, %", rows),
                scores.errors("median relative error, %", rows, statistic="median"),
                scores.points("mean absolute error, points", rows),
                *(
                    scores.errors(f"{task}: mean relative error, %", part)
                    for task, part in rows.groupby("task", sort=False)
                ),
                *scores.rolling(found.backtest),
            ],
            notes=[
                f"{empty} empty cells dropped; {zero} measured accuracies are 0: no relative error",
                "accuracy of guessing: 0.25 on MMLU, ARC-C, HellaSwag, 0.5 on Winograd, XWinograd, "
                "0 on GSM8K, HumanEval, TruthfulQA",
                *found.notes,
            ],
            tables={
                "predict_public_models": rows,
                "predict_public_models_backtest": found.backtest,
            },
        )
    ]


def loss_table(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return the models as a loss table, and the number of empty cells."""
    tasks = [name for name in CHANCE if name in frame]
    facts = pd.DataFrame(
        {
            "run_id": frame["Model"],
            FAMILY: frame["Model Family"],
            "params": 1e9 * frame["Model Size (B)"],
            "tokens": 1e12 * frame["Pretraining Data Size (T)"],
            "flops": 1e21 * frame["FLOPs (1E21)"],
            "step": 1,
            "kind": str(SetKind.TASK),
            "status": "ok",
        }
    )
    parts = [facts.assign(eval_set=task, accuracy=frame[task]) for task in tasks]
    table = pd.concat(parts, ignore_index=True)
    return table[table["accuracy"].notna()], int(table["accuracy"].isna().sum())
