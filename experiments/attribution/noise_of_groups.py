"""Measure how much the run-to-run noise of groups differs, in published sweeps.

    python experiments/attribution/noise_of_groups.py --data DIRECTORY

A group holds runs that differ only in size. For every group and evaluation set, this prints the
noise of the group divided by the noise of the other groups. This ratio is the reason why borrowed
noise is multiplied by ``contrasts.BORROWED``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.attribution.analysis import losses_on, neutral_set
from lossline.attribution.comparison import line_scatter, pooled
from lossline.attribution.contrasts import BORROWED
from lossline.attribution.matched import Losses
from lossline.matching.groups import design
from lossline.tables.sweeps import import_sweep

SWEEPS = {"kempner": "kempner_sweep.csv", "gadre": "gadre_models.csv"}
_DEGREES = 4.0  # a group with fewer degrees of freedom has no usable noise estimate


def ratios(rows: pd.DataFrame) -> Iterator[tuple[str, float]]:
    """Yield (evaluation set, noise of one group divided by the noise of the others)."""
    plan, x_set = design(rows), neutral_set(rows)
    assert x_set is not None
    sets = [name for name in rows["eval_set"].unique() if name != x_set]
    for name, points in losses_on(rows, x_set, sets, "loss", None).items():
        losses = Losses(points)
        groups = [found for group in plan.lines() if (found := losses.points(group)) is not None]
        noise = [found for group in groups if (found := line_scatter([group])).degrees >= _DEGREES]
        for place, mine in enumerate(noise):
            rest = pooled([other for i, other in enumerate(noise) if i != place])
            if rest.degrees > 0:
                yield name, mine.deviation / rest.deviation


def main() -> int:
    """Print quantiles of the ratios of each sweep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the published tables")
    folder = parser.parse_args().data
    for source, file in SWEEPS.items():
        table = import_sweep(source, folder / file).table
        values = np.array([ratio for _, ratio in ratios(table[table["status"] == "ok"])])
        found = ", ".join(f"{100 * q:.0f}%: {np.quantile(values, q):.2f}" for q in (0.5, 0.9, 0.95))
        print(
            f"{source}: {len(values)} groups x sets, {found}, largest {values.max():.2f}; "
            f"{np.sum(values > BORROWED)} above {BORROWED:g}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
