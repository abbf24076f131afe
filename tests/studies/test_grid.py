"""Points that the combinators of a grid yield."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.studies.grid import Axis, Chain, Grid, Listed, Point, Product, Zip, unique
from lossline.studies.planned_run import PlannedRun
from lossline.studies.study import _filled, with_factors
from lossline.tables.checks import check_columns

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
        levels=("mamba", "wiki"),
        gin_files=("mamba.gin", "slow.gin"),
        bindings={"train.store": "w"},
        factors={"model": "mamba", "data": "wiki"},
    )


def test_zip_pairs_and_refuses_unequal_lengths() -> None:
    assert [point.name for point in Zip(parts=[MODEL, DATA]).points()] == [
        "llama-wiki",
        "mamba-code",
    ]
    with pytest.raises(UserError, match=r"\[2, 1\] points"):
        Zip(parts=[MODEL, Axis(factor="one", levels={"a": {}})]).points()


def test_later_parts_override_and_empty_level_names_are_omitted() -> None:
    override = Axis(factor="again", levels={"": {"train.store": "x"}})
    [point] = Product(
        parts=[Axis(factor="data", levels={"wiki": {"train.store": "w"}}), override]
    ).points()
    assert point.name == "wiki" and point.bindings == {"train.store": "x"}
    assert point.factors == {"data": "wiki", "again": "default"}


def test_chain_appends_and_equal_names_are_refused() -> None:
    assert len(unique(Chain(parts=[MODEL, DATA]).points())) == 4
    with pytest.raises(UserError, match="two runs called 'llama'"):
        unique(Chain(parts=[MODEL, MODEL]).points())


def test_axis_without_levels_or_factor_is_refused() -> None:
    with pytest.raises(UserError, match="'data' is empty"):
        Axis(factor="data", levels={})
    with pytest.raises(UserError, match="name of the factor"):
        Axis(factor=" ", levels={"a": {}})


def test_levels_are_columns_of_the_loss_table() -> None:
    """Also for a factor that no option records. A run without the axis has an empty cell."""
    hand = Axis(factor="hand", levels={"x": {}})
    grid = Chain(parts=[Product(parts=[MODEL, DATA]), hand])
    runs = [
        PlannedRun(
            name=point.name,
            arguments=(),
            folder=Path("runs") / f"{point.name}-0",
            fingerprint="",
            tokens=1,
            flops_per_token=1.0,
            factors=point.factors,
        )
        for point in grid.points()
    ]
    rows = [
        {"run_id": run.folder.name, "step": 1, "tokens": 1.0, "eval_set": "a", "kind": "validation"}
        for run in runs
    ]
    table = with_factors(tables.from_rows(rows), runs)
    assert table["factor.model"].tolist()[:4] == ["llama", "llama", "mamba", "mamba"]
    assert table["factor.data"].tolist()[:4] == ["wiki", "code", "wiki", "code"]
    assert table["factor.hand"].isna().tolist() == [True] * 4 + [False]
    check_columns(table)


def test_a_binding_may_name_the_levels_of_other_axes(tmp_path: Path) -> None:
    """``{study}`` is the folder; names that are no factor stay, such as ``{tokenizer}``."""
    options = SimpleNamespace(folder=tmp_path)
    [point] = Product(
        parts=[
            Axis(
                factor="target", levels={"code": {"a": ["{study}/{target}-{method}/{tokenizer}"]}}
            ),
            Axis(factor="method", levels={"dsir": {}}),
        ]
    ).points()
    filled = _filled(options, point.bindings, point.factors)  # type: ignore[arg-type]
    assert filled == {"a": [f"{tmp_path}/code-dsir/{{tokenizer}}"]}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Chain(parts=[]), "yields no run"),
        (Product(parts=[]), "names. Name one of them"),
        (Axis(factor="a", levels={"": {}}), "names. Name one of them"),
        (Axis(factor="a", levels={1: {}}), "level 1 of factor 'a': names must be strings"),
        (Listed(runs=[{"levels": {"a": 3}}]), "level 3 of factor 'a': names must be strings"),
        (Axis(factor="a", levels={"b": {"gin_file": 3}}), "levels b: gin_file = 3: must be a path"),
        (Axis(factor="a", levels={"b": {"gin_file": ["x", 3]}}), r"gin_file = \['x', 3\]"),
    ],
)
def test_grids_that_name_no_runs_are_refused(grid: Grid, message: str) -> None:
    with pytest.raises(UserError, match=message):
        unique(grid.points())
