"""Which run next? The runs that shrink an interval most per FLOP.

    target = Target(question=Question.LINE, x_set="own", y_set="hellaswag", flops=1e21)
    plan = propose(table, target, budget=1e20)
    plan.picks[0].candidate, plan.picks[-1].half_width, plan.halving

``plan`` has the question and the answer; ``candidates`` the runs to choose from; ``beliefs`` the
joint uncertainty of the quantity asked about and of what each candidate would measure; ``picking``
chooses. One file per question makes the beliefs from draws and intervals that exist.
"""

from lossline.design.plan import (
    Candidate,
    DesignOptions,
    Interval,
    Pick,
    Plan,
    Question,
    Target,
)
from lossline.design.propose import propose

__all__ = [
    "Candidate",
    "DesignOptions",
    "Interval",
    "Pick",
    "Plan",
    "Question",
    "Target",
    "propose",
]
