"""Laws from a mixture of training data, N and D to losses; the best mixture for a target.

    runs = MixtureRuns.from_table(table)
    found = resample(Separable(), runs)              # the law, its refits and backtests
    at = {"params": 1e9, "tokens": 2e10}
    found.fit.predict([0.3, 0.7], **at)              # shares in the order of runs.components
    low, high = found.interval([0.3, 0.7], **at, level=0.9)
    best = best_mixture(loss_goal(found.fit, {"code": 1.0}, **at), runs)
    print(mixture_binding(best.mixture))

``runs`` holds the data; ``compute_laws``, ``scale_laws`` and ``share_laws`` the forms, which
``laws`` and ``solver`` fit; ``performance`` goes from losses of domains to a task's score;
``goals``, ``limits`` and ``optimum`` find the best mixture.
"""

from lossline.mixtures.catalogue import LAWS, fit_from_dict
from lossline.mixtures.goals import loss_goal, task_goal
from lossline.mixtures.limits import Limits
from lossline.mixtures.optimum import Pull, best_mixture, mixture_binding
from lossline.mixtures.performance import (
    PerformanceNetwork,
    PerformanceSigmoid,
    performance_from_dict,
)
from lossline.mixtures.resampling import resample
from lossline.mixtures.runs import MixtureRuns, shares_of
from lossline.mixtures.scale_laws import Separable

__all__ = [
    "LAWS",
    "Limits",
    "MixtureRuns",
    "PerformanceNetwork",
    "PerformanceSigmoid",
    "Pull",
    "Separable",
    "best_mixture",
    "fit_from_dict",
    "loss_goal",
    "mixture_binding",
    "performance_from_dict",
    "resample",
    "shares_of",
    "task_goal",
]
