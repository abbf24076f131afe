"""Weigh the law of families against FP: errors at rolling cuts of the public models, by weight.

    python experiments/published/family_weight.py --data DIR

Ours without losses is their geometric mean (``FamilyMean``). Prints the mean relative error at all
later models and at the farthest one, for cuts inside the models up to 2e22 FLOPs, and inside all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import predict_public

from lossline.prediction.backtest import cuts_of, run_target
from lossline.prediction.methods import METHODS, FamilyLaw, Refusal
from lossline.prediction.observations import Observations, observe
from lossline.prediction.options import PredictOptions
from lossline.prediction.results import TargetKind

WEIGHTS = (0.0, 0.2, 0.33, 0.4, 0.5, 0.67, 1.0)  # of the law of families
LEAST = 1e-4  # least score whose logarithm is averaged


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    frame = pd.read_csv(parser.parse_args().data / predict_public.FILE)
    table, _ = predict_public.loss_table(frame)
    options = PredictOptions(family=predict_public.FAMILY, chance=predict_public.CHANCE)
    tasks = observe(table, options).values()
    print("weight of the law of families:", *(f"{weight:8}" for weight in WEIGHTS))
    for name, limit in (("up to 2e22 FLOPs", predict_public.LARGE), ("all", np.inf)):
        rows = [row for task in tasks for row in errors(task.of_runs(task.run_flops <= limit))]
        for where, part in (("all later", rows), ("farthest", [r for r in rows if r[0]])):
            mean = 100 * np.mean([row[1] for row in part], axis=0)
            print(f"{name}, {where} ({len(part)}), %:".rjust(30), *(f"{e:8.2f}" for e in mean))


def errors(observations: Observations) -> list[tuple[bool, np.ndarray]]:
    """Return whether a later model is the farthest one, and its relative errors by weight."""
    rows = []
    for cut in cuts_of(observations.run_flops):
        fitted = observations.of_runs(observations.run_flops <= cut * (1 + 1e-9))
        later = np.flatnonzero(observations.run_flops > 1.2 * cut)
        pairs = [run_target(observations, int(run), TargetKind.PREDICTION) for run in later]
        once = np.ones((1, len(fitted.names)))
        fits = [method.fit(fitted, once) for method in (FamilyLaw(), METHODS["fp"])]
        found = [fit for fit in fits if not isinstance(fit, Refusal)]
        if len(found) < 2:
            continue
        law, power = (
            np.log(np.clip(fit.predict([target for target, _ in pairs])[0], LEAST, 1.0))
            for fit in found
        )
        most = max(target.flops for target, _ in pairs)
        share = np.array(WEIGHTS)
        rows += [
            (target.flops == most, np.abs(np.exp(share * a + (1 - share) * b) / y - 1))
            for (target, y), a, b in zip(pairs, law, power, strict=True)
            if y > 0
        ]
    return rows


if __name__ == "__main__":
    main()
