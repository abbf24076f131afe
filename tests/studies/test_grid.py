"""Grids are data: what the combinators yield."""

from __future__ import annotations

import pytest

from lossline.errors import UserError
from lossline.studies.grid import Axis, Chain, Point, Product, Zip, unique

MODEL = Axis(
    factor="model",
    levels={"llama": {"gin_file": "llama.gin"}, "mamba": {"gin_file": ["mamba.gin", "slow.gin"]}},
)
DATA = Axis(factor="data", levels={"wiki": {"train.store": "w"}, "code": {"train.store": "c"}})


def test_product_crosses_and_the_last_part_varies_fastest() -> None:
    points = Product(parts=[MODEL, DATA]).points()
    assert [point.name for point in points] == [
        "llama-wiki",
        "llama-code",
        "mamba-wiki",
        "mamba-code",
    ]
    assert points[2] == Point(
        levels=("mamba", "wiki"), gin_files=("mamba.gin", "slow.gin"), bindings={"train.store": "w"}
    )


def test_zip_pairs_and_refuses_unequal_lengths() -> None:
    assert [point.name for point in Zip(parts=[MODEL, DATA]).points()] == [
        "llama-wiki",
        "mamba-code",
    ]
    with pytest.raises(UserError, match=r"\[2, 1\] points"):
        Zip(parts=[MODEL, Axis(factor="one", levels={"a": {}})]).points()


def test_later_parts_win_and_empty_levels_leave_no_trace() -> None:
    override = Axis(factor="again", levels={"": {"train.store": "x"}})
    [point] = Product(
        parts=[Axis(factor="data", levels={"wiki": {"train.store": "w"}}), override]
    ).points()
    assert point.name == "wiki" and point.bindings == {"train.store": "x"}


def test_chain_appends_and_names_must_differ() -> None:
    assert len(unique(Chain(parts=[MODEL, DATA]).points())) == 4
    with pytest.raises(UserError, match="two runs called 'llama'"):
        unique(Chain(parts=[MODEL, MODEL]).points())


def test_an_axis_has_levels() -> None:
    with pytest.raises(UserError, match="'data' is empty"):
        Axis(factor="data", levels={})
