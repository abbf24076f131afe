"""Compare the solver of `lossline.laws` with a short one in JAX: same objective, same starts.

    python experiments/benchmarks/fit_jax.py --data DIR

``DIR`` holds ``chinchilla_points.csv`` and ``kempner_sweep.csv``; experiments/published/README.md
names their sources. The JAX solver (`jax_solver`) is what one would write first:
Levenberg-Marquardt with Huber's weights, the Jacobian by ``jax.jacfwd``, all starts in one
``jax.vmap``, compiled, float64. Two jobs: Chinchilla's law from the 4,500 published starts, and
1,000 resamples of one loss-to-loss line. Compile time is not counted. Rounds are interleaved and
the best CPU time of each is kept. Prints the results and writes fit_jax.json next to this file.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# One thread for both: the matrices are tiny, and threads that wait for each other cost more.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from fit_speed import environment

from lossline.laws.bootstrap import bootstrap
from lossline.laws.compute_laws import Chinchilla, hoffmann_starts
from lossline.laws.forms import ShiftedPowerLaw
from lossline.laws.objective import LEAST_SQUARES
from lossline.laws.problems import FitProblem
from lossline.laws.solver import FitOptions, fit, fit_many

ITERATIONS = 300
DELTA = 1e-3


def jax_solver(residuals: Callable, low: jax.Array, high: jax.Array, delta: float) -> Callable:
    """Return a compiled function of starts (R, P) and weights (R, M): theta (R, P), objective (R,).

    ``residuals`` maps theta (P,) to residuals (M,).
    """

    def objective(theta: jax.Array, weight: jax.Array) -> jax.Array:
        size = jnp.abs(residuals(theta))
        inner = jnp.minimum(size, delta)
        return jnp.sum(weight * inner * (size - 0.5 * inner))

    def one(start: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
        def step(state: tuple) -> tuple:
            theta, value, damping, count, _ = state
            r, jacobian = residuals(theta), jax.jacfwd(residuals)(theta)
            scaled = jacobian * (weight * jnp.minimum(1.0, delta / jnp.abs(r)))[:, None]
            normal = jacobian.T @ scaled
            damped = normal + damping * jnp.diag(jnp.diag(normal) + 1e-12)
            trial = jnp.clip(theta - jnp.linalg.solve(damped, scaled.T @ r), low, high)
            new = objective(trial, weight)
            better = new < value
            small = better & (value - new <= 1e-9 * value)
            return (
                jnp.where(better, trial, theta),
                jnp.where(better, new, value),
                jnp.clip(jnp.where(better, 0.3 * damping, 4.0 * damping), 1e-12, 1e12),
                count + 1,
                small | (damping >= 1e8),
            )

        begin = (start, objective(start, weight), 1e-2, 0, False)
        theta, value, *_ = jax.lax.while_loop(
            lambda state: (state[3] < ITERATIONS) & ~state[4], step, begin
        )
        return theta, value

    return jax.jit(jax.vmap(one))


def chinchilla_job(data: Path) -> tuple[str, Callable, Callable, np.ndarray]:
    """Return name, our fit, the JAX fit and our objectives: 240 points, 4,500 starts, one fit."""
    points = pd.read_csv(data / "chinchilla_points.csv").sort_values("loss").iloc[:-5]
    N, loss = points["params"].to_numpy(), points["loss"].to_numpy()
    D = points["flops"].to_numpy() / (6 * N)
    law, starts = Chinchilla(), hoffmann_starts()
    log_N, log_D, target = map(jnp.asarray, (np.log(N), np.log(D), np.log(loss)))

    def residuals(theta: jax.Array) -> jax.Array:
        E, a, b, alpha, beta = theta
        return jnp.log(E + jnp.exp(a - alpha * log_N) + jnp.exp(b - beta * log_D)) - target

    inputs = {"N": N, "D": D}
    low, high = law.bounds(law.columns(inputs), loss)
    solve = jax_solver(residuals, jnp.asarray(low), jnp.asarray(high), DELTA)
    theta = jnp.clip(jnp.asarray(law.to_internal(starts)), low, high)
    weight = jnp.ones((len(starts), len(loss)))
    return (
        "Chinchilla's law, 240 points, 4,500 starts",
        lambda: fit(law, inputs, loss, starts=starts),
        lambda: np.asarray(solve(theta, weight)[1]),
        np.full(len(starts), fit(law, inputs, loss, starts=starts).objective),
    )


def line_job(data: Path) -> tuple[str, Callable, Callable, np.ndarray]:
    """Return name, our bootstrap, the JAX one and our objectives: one line, 1,000 resamples."""
    table = pd.read_csv(data / "kempner_sweep.csv")
    group = table[table["data"] == "fineweb-edu-100b"]
    x = group["val_loss"].to_numpy()
    y = group["eval/downstream_ce_loss/hellaswag_test_ce_loss"].to_numpy()
    law, count, options = ShiftedPowerLaw(), 1000, FitOptions(objective=LEAST_SQUARES)
    x_M, y_M = jnp.asarray(x), jnp.asarray(y)

    def residuals(theta: jax.Array) -> jax.Array:
        log_K, kappa, E_x, E_y = theta
        return jnp.exp(log_K) * (x_M - E_x) ** kappa + E_y - y_M

    low, high = law.bounds(law.columns({"x": x}), y)
    solve = jax_solver(residuals, jnp.asarray(low), jnp.asarray(high), np.inf)
    start = law.to_internal(list(fit(law, {"x": x}, y, options=options).parameters.values()))
    theta = jnp.tile(jnp.asarray(start), (count, 1))
    drawn = np.random.default_rng(0).multinomial(len(x), np.full(len(x), 1 / len(x)), size=count)
    weight = jnp.asarray(drawn, float)
    same = [FitProblem(inputs={"x": x}, target=y, weights=w.astype(float)) for w in drawn]
    return (
        f"1,000 resamples of one line, {len(x)} runs",
        lambda: bootstrap(law, {"x": x}, y, resamples=count, options=options),
        lambda: np.asarray(solve(theta, weight)[1]),
        np.array([result.objective for result in fit_many(law, same, options=options)]),
    )


def measure(
    name: str, ours: Callable, peer: Callable, objective: np.ndarray, rounds: int
) -> dict[str, object]:
    """Return the best CPU time of either, and how near to our optimum the JAX solver ends."""
    ours(), peer()  # compile, fill caches
    best = {"ours": np.inf, "jax": np.inf}
    for _ in range(rounds):
        for label, call in (("ours", ours), ("jax", peer)):
            begin = time.process_time()
            found = call()
            best[label] = min(best[label], time.process_time() - begin)
    ratio = found / objective
    return {
        "job": name,
        "cpu_seconds": {label: round(value, 3) for label, value in best.items()},
        "times_faster": round(best["jax"] / best["ours"], 1),
        "jax_ends_at_our_optimum": round(float(np.mean(ratio <= 1.0001)), 3),
        "jax_objective_over_ours": {
            "least": float(np.min(ratio)),
            "median": float(np.median(ratio)),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"fit_jax: error: --data = {options.data}: no such folder. Give another path.")
    with jax.enable_x64(True):
        rows = [measure(*job(options.data), options.rounds) for job in (chinchilla_job, line_job)]
    for row in rows:
        print(json.dumps(row, indent=1))
    report = {
        "command": f"python experiments/benchmarks/fit_jax.py --rounds {options.rounds}",
        "environment": {**environment(), "jax": jax.__version__},
        "results": rows,
    }
    partial = options.out.with_suffix(".partial")
    partial.write_text(json.dumps(report, indent=2) + "\n")
    partial.replace(options.out)


if __name__ == "__main__":
    main()
