"""Predictions as files: Parquet, CSV and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossline.fits.files import write_plain_json
from lossline.prediction.results import Predictions
from lossline.results_folder import ResultsFolder
from lossline.tables.frames import with_strings

PREDICT_FOLDER = ResultsFolder(verb="predict")
_BOTH = ("predictions",)  # as CSV and as Parquet
_CSV = ("backtest", "influence", "stages", "decisions")
_PARQUET = ("points", "curves")  # what the figures show


def save_predictions(
    found: Predictions, folder: Path, provenance: Mapping[str, Any] | None = None
) -> None:
    """Write all parts of the predictions into ``folder``.

    Args:
        found: the predictions.
        folder: an existing folder.
        provenance: origin of the numbers, kept in settings.json.
    """
    for name in (*_BOTH, *_CSV):
        getattr(found, name).to_csv(folder / f"{name}.csv", index=False)
    for name in (*_BOTH, *_PARQUET):
        with_strings(getattr(found, name)).to_parquet(folder / f"{name}.parquet", index=False)
    if found.predictor:
        write_plain_json(folder / "predictor.json", found.predictor)
    about = {
        "settings": found.settings,
        "default": found.default,
        "notes": list(found.notes),
        "provenance": provenance or {},
    }
    write_plain_json(folder / "settings.json", about)
