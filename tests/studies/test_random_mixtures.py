"""Random sparse mixtures as a grid: a balanced design that depends only on seed, run and names."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lossline.batches.mixture import Mixture
from lossline.errors import UserError
from lossline.studies.grid import Point, Product, unique
from lossline.studies.random_mixtures import RandomMixtures

NAMES = tuple(f"domain_{number:02d}" for number in range(40))
GRID = RandomMixtures(stores="stores/{domain}/train", domains=NAMES, count=24, active=(4, 8))


def shares(point: Point) -> dict[str, float]:
    """Shares above 0 of a run."""
    return {name: share for name, share in point.bindings["mixture.shares"].items() if share}


def prepare(folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (folder / "stores" / name / "train").mkdir(parents=True)
        (folder / "stores" / name / "train" / "manifest.json").touch()


def test_a_run_depends_on_seed_number_and_names_only() -> None:
    points = GRID.points()
    assert points == GRID.points()
    assert points == replace(GRID, domains=NAMES[::-1]).points()
    assert points == replace(GRID, count=30).points()[:24]
    assert points != replace(GRID, seed=1).points()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("active", [(4, 8), (1, 1), (3, 40), (40, 40)])
def test_domains_are_active_in_equally_many_runs(seed: int, active: tuple[int, int]) -> None:
    points = replace(GRID, seed=seed, active=active).points()
    assert all(active[0] <= len(shares(point)) <= active[1] for point in points)
    times = Counter(name for point in points for name in shares(point))
    counts = [times[name] for name in NAMES]
    assert max(counts) - min(counts) <= 1
    if active == (4, 8):
        assert min(counts) >= 2


@pytest.mark.parametrize("concentration", [0.01, 1.0, 100.0])
def test_shares_are_hundredths_that_sum_to_one(concentration: float) -> None:
    points = replace(GRID, concentration=concentration, active=(1, 40)).points()
    for point in points:
        whole = [share * 100 for share in shares(point).values()]
        assert sum(map(round, whole)) == 100 and min(whole) > 0.99
        assert all(abs(share - round(share)) < 1e-9 for share in whole)
        bound = {key.removeprefix("mixture."): value for key, value in point.bindings.items()}
        assert bound.pop("train.store") == "@mixture()"
        assert Mixture(**bound).components["domain_03"] == "stores/domain_03/train"


def test_concentration_sets_how_equal_the_shares_are() -> None:
    def largest(concentration: float) -> float:
        points = replace(GRID, concentration=concentration, active=(5, 5)).points()
        return sum(max(shares(point).values()) for point in points) / len(points)

    assert largest(0.1) > 0.7 > largest(1.0) > 0.35 > largest(50.0)


def test_names_are_unique_and_recorded_as_a_factor() -> None:
    points = unique(Product(parts=[replace(GRID, count=101)]).points())
    assert points[7].name == "mix-007" and points[7].factors == {"mixture": "mix-007"}
    assert GRID.points()[7].name == "mix-07"


def test_domains_without_a_store_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    everything = GRID.points()
    assert not capsys.readouterr().err
    prepare(tmp_path, NAMES[2:])
    found = GRID.points()
    assert found == GRID.points() != everything
    assert found == replace(GRID, domains=NAMES[2:]).points()
    said = capsys.readouterr()
    assert not said.out  # --commands prints commands only
    assert said.err == (
        "random_mixtures: 2 of 40 domains have no store and are left out: domain_00, domain_01\n"
    )


def test_too_few_stores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, NAMES[:7])
    with pytest.raises(UserError, match="only 7 domains have a store"):
        GRID.points()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stores": "stores/train"}, "no {domain} in it"),
        ({"domains": ("a", "a")}, "occurs twice"),
        ({"active": (0, 3)}, "active"),
        ({"active": (5, 3)}, "active"),
        ({"count": 0}, "count = 0"),
        ({"concentration": 0.0}, "concentration = 0.0"),
        ({"seed": -1}, "random_mixtures.seed"),
        ({"domains": ()}, "none is named"),
    ],
)
def test_wrong_values_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(GRID, **change).points()  # type: ignore[arg-type]
