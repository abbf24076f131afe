"""A model of another size with the proportions of a given one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from lossline.errors import UserError
from lossline.models.config import ModelConfig

_WIDTHS = 8  # widths are multiples of this number, where heads do not set them
_PROPORTION = 0.1  # weight of the proportion width / layers against the number of parameters
_DEEPEST = 4  # layers at most this many times, and at least this part of, those of cubic growth


def resized(model: ModelConfig, params: float) -> dict[str, int]:
    """Return the dimensions of a model of about ``params`` parameters, like ``model`` otherwise.

    Width and layers grow together. The width of a head and the ratios of all other widths to
    the width stay.

    Args:
        model: the model to start from.
        params: N, parameters with embeddings.

    Returns:
        Option -> value of each dimension that differs; the closest number of parameters, with
        a small price on another ratio of width to layers.

    Raises:
        UserError: no dimensions that the family accepts were found.
    """

    def price(found: ModelConfig) -> float:
        off = math.log(found.num_params().total / params)
        shape = math.log(found.width * model.layers / (found.layers * model.width))
        return abs(off) + _PROPORTION * abs(shape)

    tried = list(_tried(model, params))
    if not tried:
        raise UserError(
            f"no {model.family} of about {params:.3g} parameters has the proportions of the given "
            "one. Write its dimensions yourself."
        )
    best = min(tried, key=price)
    return {
        item.name: getattr(best, item.name)
        for item in dataclasses.fields(best)
        if getattr(best, item.name) != getattr(model, item.name)
    }


def _tried(model: ModelConfig, params: float) -> Iterator[ModelConfig]:
    """Yield models of growing width for each number of layers, past the asked size."""
    growth = (params / model.num_params().total) ** (1 / 3)
    fewest = max(1, int(model.layers * growth / _DEEPEST))
    for layers in range(fewest, math.ceil(model.layers * growth * _DEEPEST) + 1):
        for sizes in _widths(model):
            try:
                found = dataclasses.replace(model, layers=layers, **sizes)
            except UserError:
                continue  # the family needs another divisor
            yield found
            if found.num_params().total > 1.5 * params:
                break


def _widths(model: ModelConfig) -> Iterator[dict[str, Any]]:
    """Yield the widths of models, from narrow to wide: whole heads, where there are heads."""
    heads = getattr(model, "heads", None)
    groups = (heads // (getattr(model, "kv_heads", None) or heads)) if heads else 1
    step = groups * model.width // heads if heads else _WIDTHS
    number = 0
    while True:
        number += 1
        width = number * step
        found: dict[str, Any] = {"width": width}
        if heads:
            found["heads"] = number * groups
            if getattr(model, "kv_heads", None):
                found["kv_heads"] = number
        if getattr(model, "mlp_width", None):
            ratio = model.mlp_width / model.width  # type: ignore[attr-defined]
            found["mlp_width"] = max(8, round(ratio * width / 8) * 8)
        yield found
        if width > 64 * model.width * _DEEPEST:
            return
