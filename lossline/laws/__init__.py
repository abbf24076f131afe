"""Scaling laws, the solver that fits them, and the bootstrap over runs; independent of loss tables.

Why a solver of our own: a study fits hundreds of laws and a thousand resamples of each. A short
solver in JAX (about 35 lines, one ``vmap`` over all starts) takes 10 to 84 times the CPU time for
the same optimum, and SciPy takes 9 to 344 times as long. ``experiments/benchmarks/fit_jax.py`` and
``fit_speed.py`` measure both; the README next to them has the numbers.

Path of a fit: ``problems`` checks the points, ``starts`` gives start values, ``levenberg`` descends
from all of them in one batch, ``newton`` polishes the best ends, and ``solver`` returns a
``results.FitResult`` with a status. ``bootstrap`` repeats this for resampled runs.
"""

from lossline.laws.bootstrap import bootstrap_problem
from lossline.laws.compute_laws import Chinchilla
from lossline.laws.objective import LEAST_SQUARES
from lossline.laws.problems import FitProblem
from lossline.laws.solver import FitOptions, fit

__all__ = [
    "LEAST_SQUARES",
    "Chinchilla",
    "FitOptions",
    "FitProblem",
    "bootstrap_problem",
    "fit",
]
