"""All laws by name, and fits back from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.mixtures.compute_laws import M1, M2, M3, M4
from lossline.mixtures.laws import Law, LawFit, Scale
from lossline.mixtures.process_law import ProcessFit, ProcessLaw
from lossline.mixtures.runs import unknown_name
from lossline.mixtures.scale_laws import Additive, Exponential, Joint, Separable
from lossline.mixtures.share_laws import LAWS as SHARE_LAWS
from lossline.mixtures.share_laws import ShareFit

LAWS: dict[str, type[Law]] = {
    law.name: law for law in (M1, M2, M3, M4, Exponential, Additive, Joint, Separable)
}
DEFAULT = Separable


def fit_from_dict(tree: Mapping[str, Any]) -> LawFit | ShareFit | ProcessFit:
    """Return the fit that ``to_dict`` wrote.

    Raises:
        UserError: the law is unknown, or its parameters are other ones than those written.
    """
    try:
        if tree["law"] in SHARE_LAWS:
            return ShareFit.from_dict(tree)
        if tree["law"] == ProcessLaw.name:
            return ProcessFit.from_dict(tree)
        if tree["law"] not in LAWS:
            raise unknown_name("law", str(tree["law"]), tuple(LAWS))
        law = LAWS[tree["law"]](**tree["options"])
        components = tuple(tree["components"])
        scale = {k: np.nan if v is None else float(v) for k, v in tree["scale"].items()}
        fit = LawFit(
            law=law,
            components=components,
            domains=tuple(tree["domains"]),
            theta=np.array(tree["theta"], float),
            offset=np.array(tree["offset"], float),
            scale=Scale(**scale),
            scatter=np.array(tree["scatter"], float),
            converged=tuple(tree["converged"]),
            notes=tuple(tree["notes"]),
        )
        names = list(law.parameters(components).names)
        fits = fit.theta.shape == (len(fit.domains), len(names)) and names == tree["parameters"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a saved mixture fit: {error}. Fit and save it again.") from error
    if not fits:
        raise UserError(
            f"saved mixture fit: its parameters are not those of law {law.name!r} in this version. "
            "Fit and save it again."
        )
    return fit
