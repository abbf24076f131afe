"""Example parameters of each law, and inputs to evaluate it at."""

import numpy as np
import pytest

from lossline.laws.compute_laws import Chinchilla, Kaplan, OverTraining, OverTrainingByParams
from lossline.laws.forms import ErrorLaw, ShiftedPowerLaw

# Natural parameters of a plausible example of each law.
EXAMPLES = {
    ShiftedPowerLaw(): {"K": 0.9, "kappa": 1.1, "E_x": 1.9, "E_y": 1.5},
    ErrorLaw(): {"epsilon": 0.86, "k": 2.2, "gamma": 0.71},
    Chinchilla(): {"E": 1.8, "A": 480.0, "B": 2100.0, "alpha": 0.35, "beta": 0.37},
    Kaplan(): {"E": 1.97, "A": 6.7e7, "B": 8.9e8, "alpha": 0.41, "beta": 0.46},
    OverTraining(): {"E": 1.8, "a": 300.0, "b": 500.0, "eta": 0.13},
    OverTrainingByParams(): {"E": 1.8366, "alpha": 166.2, "beta": 366.7, "decay": 0.2729},
}
LAWS = pytest.mark.parametrize("law", list(EXAMPLES), ids=lambda law: law.name)


def inputs_of(law, count=40, seed=0):
    """Return random inputs of a law, each (count,)."""
    rng = np.random.default_rng(seed)
    if law.inputs == ("x",):
        return {"x": rng.uniform(2.2, 4.5, count)}
    return {
        "N": np.exp(rng.uniform(np.log(1e7), np.log(1e10), count)),
        "D": np.exp(rng.uniform(np.log(1e9), np.log(1e12), count)),
    }
