"""Selections as files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import lossline
from lossline.choices.options import Choice, Choices, ChooseOptions
from lossline.corpora.selected import COLUMNS, pool_facts, write_selection
from lossline.files import write_json
from lossline.options.identity import identity
from lossline.results_folder import ResultsFolder
from lossline.tables.frames import with_strings

SELECT_FOLDER = ResultsFolder(verb="select")
_BOTH = ("coefficients",)  # as CSV and as Parquet
_CSV = ("heldout", "overlap", "composition", "domains")


def save_choices(
    found: Choices, options: ChooseOptions, folder: Path, provenance: Mapping[str, Any]
) -> None:
    """Write tables of all selections, and one folder for each selection, into ``folder``.

    Args:
        found: the selections.
        options: their options.
        folder: an existing folder.
        provenance: origin of the numbers.
    """
    for name in (*_BOTH, *_CSV):
        getattr(found, name).to_csv(folder / f"{name}.csv", index=False)
    for name in _BOTH:
        with_strings(getattr(found, name)).to_parquet(folder / f"{name}.parquet", index=False)
    pool = pool_facts(options.pool, found.pool_fingerprint, found.present) if options.pool else {}
    for choice in found.choices:
        place = folder / choice.folder
        write_selection(place, _index(choice), _manifest(choice, found, options, pool))
        if (model := choice.ranking.model) is not None:
            model.save(place / f"classifier{model.SUFFIX}")
    about = {"notes": list(found.notes), "provenance": dict(provenance)}
    write_json(folder / "settings.json", about)


def _index(choice: Choice) -> pd.DataFrame:
    pages = choice.cut.pages
    return pages[pages["included"]].sort_values("rank").loc[:, list(COLUMNS)]


def _manifest(
    choice: Choice, found: Choices, options: ChooseOptions, pool: dict[str, Any]
) -> dict[str, Any]:
    """Return how a selection was made; see ``lossline.corpora.selected.PROVENANCE``."""
    benchmarks = [list(t.benchmarks) for t in options.targets if t.name == choice.target]
    return {
        "method": choice.method,
        "target": choice.target,
        "benchmarks": benchmarks[0] if benchmarks else [],
        "options": identity(choice.options),
        "pool": pool,
        "scores": found.scores_fingerprint if choice.weights else "",
        "budget": options.budget,
        "tokens": choice.cut.tokens,
        "bytes": choice.cut.bytes,
        "pages": len(choice.cut.order),
        "epochs": epochs_of(choice, options),
        "seed": options.seed,
        "weights": {name: weight for name, weight in choice.weights.items() if weight > 0},
        "facts": dict(choice.ranking.facts),
        "lossline": lossline.__version__,
    }


def epochs_of(choice: Choice, options: ChooseOptions) -> float | None:
    """Return how often a training on ``train_tokens`` reads the selection; None if not stated."""
    return options.train_tokens / choice.cut.tokens if options.train_tokens else None
