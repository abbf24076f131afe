"""Measure the speed of fits against SciPy: same objective, same starts, same Jacobian.

    python experiments/benchmarks/fit_speed.py --data ../shared/data

Three jobs: Chinchilla's law from the 4,500 published starts; all law fits of the Kempner sweep;
1,000 bootstraps of one line. The peers are `scipy.optimize.curve_fit` (with bounds, and
`loss="huber"` where the job uses it) and L-BFGS-B. They run one fit at a time with default
tolerances, as users call them.

The peers run an even sample of the job and their time is scaled up; `--sample 1` runs the whole
job, which takes half an hour. Rounds are interleaved and the best of each is kept. The script
prints a table and writes fit_speed.json next to this file.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# Use one BLAS thread for all: the matrices are tiny. More threads wait for each other and slow the
# peers, which solve one fit at a time, by up to 40 times.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd
import scipy
from scipy.optimize import curve_fit, minimize

from lossline.laws.bootstrap import bootstrap
from lossline.laws.compute_laws import Chinchilla, Kaplan, hoffmann_starts
from lossline.laws.forms import Law, ShiftedPowerLaw
from lossline.laws.objective import HUBER_ON_LOGS, LEAST_SQUARES, FitObjective, Loss, Residual
from lossline.laws.problems import FitProblem
from lossline.laws.results import FitResult
from lossline.laws.solver import FitOptions, fit, fit_many

Array = np.ndarray


@dataclasses.dataclass
class Peer:
    """SciPy on one problem: internal coordinates, analytic derivatives, and lossline's bounds."""

    law: Law
    objective: FitObjective
    inputs: Mapping[str, Array]
    target: Array
    weights: Array | None = None

    def __post_init__(self) -> None:
        self.columns = tuple(c[None] for c in self.law.columns(self.inputs))
        self.bounds = self.law.bounds(tuple(c[0] for c in self.columns), self.target)
        self.goal = self.objective.target(self.target)
        self.mass = np.ones(len(self.target)) if self.weights is None else self.weights

    def curve_fit(self, start: Array) -> float:
        """Return the objective of trust-region least squares from one start; inf if it fails."""
        log = self.objective.residual is Residual.LOG

        def value(_: Array, *theta: float) -> Array:
            with np.errstate(all="ignore"):
                f = self.law.value(np.array([theta]), self.columns)[0]
                return np.log(f) if log else f

        def jacobian(_: Array, *theta: float) -> Array:
            with np.errstate(all="ignore"):
                f, slopes = self.law.value_and_jacobian(np.array([theta]), self.columns)
                return (slopes[0] / f[0] if log else slopes[0]).T

        loss = {"loss": "huber", "f_scale": self.objective.delta}
        with np.errstate(divide="ignore"):
            sigma = None if self.weights is None else 1 / np.sqrt(np.maximum(self.weights, 1e-12))
        try:
            theta, _ = curve_fit(
                value, np.zeros(len(self.goal)), self.goal, p0=self.inside(start), sigma=sigma,
                bounds=self.bounds, jac=jacobian, method="trf", max_nfev=1000,
                **(loss if self.objective.loss is Loss.HUBER else {}),
            )  # fmt: skip
        except (RuntimeError, ValueError):
            return float("inf")
        return self.value_and_gradient(theta)[0]

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Return the objective and its gradient."""
        f, jacobian = self.law.value_and_jacobian(theta[None], self.columns)
        r = self.objective.residuals(f, self.goal)
        weight = self.objective.robust_weight(r)
        pull = r * self.mass if weight is None else weight * r * self.mass
        slope = self.objective.slope(f, self.goal)
        if slope is not None:
            pull = pull * slope
        return float((self.objective.rho(r) * self.mass).sum()), (jacobian[0] @ pull[0])

    def lbfgs(self, start: Array) -> float:
        """Return the objective of L-BFGS-B from one start.

        Its stopping rules are absolute, so the objective is scaled to about 1; otherwise it stops
        at once.
        """

        def scaled(theta: Array) -> tuple[float, Array]:
            with np.errstate(all="ignore"):
                value, gradient = self.value_and_gradient(theta)
            return 1e3 * value, 1e3 * gradient

        found = minimize(
            scaled, self.inside(start), jac=True, method="L-BFGS-B",
            bounds=list(zip(*self.bounds, strict=True)),
            options={"maxiter": 1000, "maxfun": 2000},
        )  # fmt: skip
        return float(found.fun) / 1e3

    def inside(self, start: Array) -> Array:
        """Return the start moved strictly inside the bounds, as trust-region methods need it."""
        low, high = self.bounds
        room = np.minimum(1e-6, 0.25 * (high - low))
        return np.clip(start, low + room, high - room)


@dataclasses.dataclass
class Job:
    """One job: lossline runs it as a whole, the peers one item at a time.

    Attributes:
        name: name in the table.
        target: time that lossline should reach.
        ours: function to time.
        check: function that returns the same fits, to compare the peers with.
        items: number of peer calls for the whole job.
        peers: name of a peer -> function from item to objective.
        fit_of: function from item to fit.
    """

    name: str
    target: str
    ours: Callable[[], object]
    check: Callable[[], list[FitResult]]
    items: int
    peers: dict[str, Callable[[int], float]]
    fit_of: Callable[[int], int]


def chinchilla_job(data: Path) -> Job:
    """Return the job of Hoffmann et al.'s approach 3 on the 240 points of the Epoch replication."""
    points = pd.read_csv(data / "chinchilla_points.csv").sort_values("loss").iloc[:-5]
    size = points["params"].to_numpy()
    inputs = {"N": size, "D": points["flops"].to_numpy() / (6 * size)}
    loss = points["loss"].to_numpy()
    law, starts = Chinchilla(), hoffmann_starts()
    peer = Peer(law, HUBER_ON_LOGS, inputs, loss)
    theta = law.to_internal(starts)
    return Job(
        name="Chinchilla, 240 points, 4,500 starts",
        target="1 s",
        ours=lambda: fit(law, inputs, loss, starts=starts),
        check=lambda: [fit(law, inputs, loss, starts=starts)],
        items=len(starts),
        peers={
            "curve_fit": lambda i: peer.curve_fit(theta[i]),
            "L-BFGS-B": lambda i: peer.lbfgs(theta[i]),
        },
        fit_of=lambda i: 0,
    )


def kempner_job(data: Path) -> Job:
    """Return the job of both law forms on every pretraining set and loss.

    The peers start from the published 16 points.
    """
    table = pd.read_csv(data / "kempner_sweep.csv")
    losses = [
        c
        for c in table.columns
        if c == "val_loss" or "CrossEntropyLoss" in c or c.endswith("ce_loss")
    ]
    problems = []
    for _, group in table.groupby("data"):
        inputs = {"N": group["params"].to_numpy(), "D": group["tokens"].to_numpy()}
        for loss in losses:
            # fit_many drops missing values; drop them here for the peers.
            y = group[loss].to_numpy()
            keep = np.isfinite(y) & (y > 0)
            if keep.sum() > 5:
                problems.append(
                    FitProblem(inputs={k: v[keep] for k, v in inputs.items()}, target=y[keep])
                )
    logs = np.array([5.0, 10.0, 15.0, 20.0])
    starts = np.array([[np.exp(0.5), a, b, 0.4, 0.4] for a in logs for b in logs])
    laws = (Chinchilla(), Kaplan())
    peers = [Peer(law, HUBER_ON_LOGS, p.inputs, p.target) for law in laws for p in problems]
    return Job(
        name=f"Kempner sweep, {len(peers)} law fits (2 forms)",
        target=f"5 s for 276, {5 * len(peers) / 276:.1f} s for these",
        ours=lambda: [fit_many(law, problems) for law in laws],
        check=lambda: [r for law in laws for r in fit_many(law, problems)],
        items=16 * len(peers),
        peers={
            "curve_fit": lambda i: peers[i // 16].curve_fit(starts[i % 16]),
            "L-BFGS-B": lambda i: peers[i // 16].lbfgs(starts[i % 16]),
        },
        fit_of=lambda i: i // 16,
    )


def bootstrap_job(data: Path) -> Job:
    """Return the job of 1,000 resamples of the runs of one train-to-test line.

    The peers start from the fit to all runs.
    """
    table = pd.read_csv(data / "kempner_sweep.csv")
    group = table[table["data"] == "fineweb-edu-100b"]
    x = group["val_loss"].to_numpy()
    y = group["eval/downstream_ce_loss/hellaswag_test_ce_loss"].to_numpy()
    law, count = ShiftedPowerLaw(), 1000
    options = FitOptions(objective=LEAST_SQUARES)
    start = law.to_internal(
        np.array(list(fit(law, {"x": x}, y, options=options).parameters.values()))
    )
    drawn = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=count)

    def peer(i: int) -> Peer:
        return Peer(law, LEAST_SQUARES, {"x": x}, y, weights=drawn[i].astype(float))

    same = [FitProblem(inputs={"x": x}, target=y, weights=w.astype(float)) for w in drawn]
    return Job(
        name=f"bootstrap of one line, {len(x)} runs, 1,000 resamples",
        target="0.5 s",
        ours=lambda: bootstrap(law, {"x": x}, y, resamples=count, options=options),
        check=lambda: fit_many(law, same, options=options),
        items=count,
        peers={
            "curve_fit": lambda i: peer(i).curve_fit(start),
            "L-BFGS-B": lambda i: peer(i).lbfgs(start),
        },
        fit_of=lambda i: i,
    )


def measure(job: Job, *, rounds: int, share: float) -> dict[str, object]:
    """Return the best times of interleaved rounds; the time of peers is divided by their sampled
    share.
    """
    # Sample whole fits, so that "best of its starts" is the same work for all.
    block = max(1, next((i for i in range(job.items) if job.fit_of(i) != job.fit_of(0)), 1))
    blocks = job.items // block
    chosen = np.unique(np.linspace(0, blocks - 1, max(2, round(share * blocks))).astype(int))
    items = [int(b * block + k) for b in chosen for k in range(block)]
    job.ours()  # the first call imports and fills caches; the peers get one too
    for call in job.peers.values():
        call(items[0])
    best: dict[str, float] = {}
    busy: dict[str, float] = {}
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        begin, cpu = time.perf_counter(), time.process_time()
        job.ours()
        best["ours"] = min(best.get("ours", np.inf), time.perf_counter() - begin)
        busy["ours"] = min(busy.get("ours", np.inf), time.process_time() - cpu)
        for name, call in job.peers.items():
            begin, cpu = time.perf_counter(), time.process_time()
            found[name] = [call(i) for i in items]
            whole = job.items / len(items)
            best[name] = min(best.get(name, np.inf), (time.perf_counter() - begin) * whole)
            busy[name] = min(busy.get(name, np.inf), (time.process_time() - cpu) * whole)
    row: dict[str, object] = {
        "job": job.name,
        "target": job.target,
        "sampled": len(items) / job.items,
    }
    row["seconds"] = {name: round(value, 3) for name, value in best.items()}
    row["cpu_seconds"] = {name: round(value, 3) for name, value in busy.items()}
    row["times_faster"] = {n: round(best[n] / best["ours"], 1) for n in job.peers}
    row["times_faster_cpu"] = {n: round(busy[n] / busy["ours"], 1) for n in job.peers}
    results = job.check()
    row["starts_at_optimum"] = {
        "ours": round(sum(r.starts_reached for r in results) / sum(r.starts for r in results), 3)
    } | {
        name: round(
            float(
                np.mean(
                    [
                        v <= results[job.fit_of(i)].objective * 1.0001
                        for i, v in zip(items, values, strict=True)
                    ]
                )
            ),
            3,
        )
        for name, values in found.items()
    }
    row["objective_over_ours"] = {
        name: _compare(values, [job.fit_of(i) for i in items], results)
        for name, values in found.items()
    }
    return row


def _compare(values: list[float], fits: list[int], results: list[FitResult]) -> dict[str, float]:
    """Return the best objective of the peer per fit, divided by that of lossline."""
    best: dict[int, float] = {}
    for f, value in zip(fits, values, strict=True):
        best[f] = min(best.get(f, np.inf), value)
    ratios = [value / results[f].objective for f, value in best.items()]
    return {"median": float(np.median(ratios)), "least": min(ratios), "most": max(ratios)}


def environment() -> dict[str, object]:
    """Return the facts about machine and versions that affect the times."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def main() -> None:
    """Measure all jobs, print the table and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = Path(__file__).resolve()
    parser.add_argument("--data", type=Path, default=here.parents[3] / "shared" / "data")
    parser.add_argument("--out", type=Path, default=here.with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=float, default=0.03, help="share of a job that peers run")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"fit_speed: error: no folder {options.data}; pass --data")
    report: dict[str, object] = {
        "command": "python experiments/benchmarks/fit_speed.py "
        f"--rounds {options.rounds} --sample {options.sample}",
        "environment": environment(),
    }
    rows = []
    for make in (chinchilla_job, kempner_job, bootstrap_job):
        row = measure(make(options.data), rounds=options.rounds, share=options.sample)
        rows.append(row)
        print(f"{row['job']} (target {row['target']})")
        for name, seconds in row["seconds"].items():  # type: ignore[attr-defined]
            ratio = row["times_faster"].get(name, 1.0)  # type: ignore[attr-defined]
            cpu = row["cpu_seconds"][name]  # type: ignore[index]
            print(f"  {name:10s} {seconds:9.3f} s (CPU {cpu:.3f})  {ratio:8.1f} x   ", end="")
            share = row["starts_at_optimum"][name]  # type: ignore[index]
            print(f"{100 * share:5.1f}% of starts at the optimum", end="   ")
            print(row["objective_over_ours"].get(name) or "")  # type: ignore[attr-defined]
    report["results"] = rows
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(options.out)


if __name__ == "__main__":
    main()
