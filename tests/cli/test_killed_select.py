"""A killed selection continues with the pieces that it has finished, and ends in the same files."""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from pathlib import Path

import planted_pool
import pytest
from killing_method import Killing
from standing_cluster import StandingCluster

from lossline.choices import stored_pages
from lossline.choices.targets import Target
from lossline.cli.select_command import SelectCommand, select
from lossline.cluster import WorkLost
from lossline.corpora.pools import Pool
from lossline.errors import UserError
from lossline.files import working
from lossline.pages.methods import Dsir

PIECE = 12_000


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_pages, "PIECE", PIECE)


def command(root: Path, name: str, **others: object) -> SelectCommand:
    (root / f"{name}.pieces").mkdir(exist_ok=True)
    return SelectCommand(
        pool=Pool(root=str(root), domains=tuple(planted_pool.WORDS)),
        targets=(Target(name="quiz", benchmarks=("quiz",), texts=("quiz",)),),
        methods={"dsir": Dsir(), "killing": Killing(folder=str(root / f"{name}.pieces"))},
        budget=4000, vocabulary="bytes", resamples=30, report=False, out=str(root / name),
        **others,
    )  # type: ignore[arg-type]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pieces(folder: Path) -> Counter[str]:
    return Counter(path.name.split("-")[1] for path in folder.glob("done-*"))


def select_small(options: SelectCommand) -> None:
    stored_pages.PIECE = PIECE
    select(options)


@pytest.mark.parametrize("where", ["this process", "a process of this machine", "dask"])
def test_a_killed_selection_continues(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    planted_pool.write_pool(tmp_path)
    select(command(tmp_path, "whole", processes=1))
    expected = pieces(tmp_path / "whole.pieces")
    assert len(expected) > 5 and set(expected.values()) == {1}
    cluster, processes = "local", 1 if where == "this process" else 2
    if where == "dask":
        standing = request.getfixturevalue("harmed_cluster")
        standing.start_worker()
        standing.start_worker()
        cluster = standing.address
    options = command(tmp_path, "killed", cluster=cluster, processes=processes)
    (tmp_path / "killed.pieces" / "armed").touch()
    if where == "this process":
        child = multiprocessing.get_context("spawn").Process(target=select_small, args=(options,))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    else:
        with pytest.raises(WorkLost, match=r"killed|died") as error:
            select(options)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "killed").exists() and (tmp_path / ".killed.work").is_dir()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(".killed.work/**/*.result")}
    assert len(kept) > 2
    done = pieces(tmp_path / "killed.pieces")
    if where == "dask":
        standing.start_worker()
    changed = {}
    with pytest.MonkeyPatch.context() as patch:  # the files are gone when the selection ends
        remove = "lossline.cli.select_command._empty"
        patch.setattr(remove, lambda work: changed.update({p: p.stat().st_mtime_ns for p in kept}))
        select(options)
    assert changed == kept
    assert set(pieces(tmp_path / "killed.pieces")) == set(expected)
    again = pieces(tmp_path / "killed.pieces") - done
    assert sum(again.values()) <= len(expected) - 2  # those with a file were not done again
    assert _without_origin(tmp_path / "killed") == _without_origin(tmp_path / "whole")


def _without_origin(folder: Path) -> dict[str, bytes]:
    """Return the files, less the one with the command line."""
    return {name: data for name, data in files(folder).items() if name != "settings.json"}


def test_a_killed_worker_of_dask_changes_nothing(
    dask_cluster: StandingCluster, tmp_path: Path
) -> None:
    planted_pool.write_pool(tmp_path)
    select(command(tmp_path, "whole", processes=1))
    options = command(tmp_path, "killed", cluster=dask_cluster.address)
    (tmp_path / "killed.pieces" / "armed").touch()
    select(options)
    assert not (tmp_path / "killed.pieces" / "armed").exists()
    dask_cluster.start_worker()
    assert _without_origin(tmp_path / "killed") == _without_origin(tmp_path / "whole")
    assert not list(tmp_path.glob(".killed*"))


def test_two_selections_into_one_folder(tmp_path: Path) -> None:
    planted_pool.write_pool(tmp_path)
    with (
        working(tmp_path / "one"),
        pytest.raises(UserError, match="one: another process is writing it"),
    ):
        select(command(tmp_path, "one", processes=1))
    assert not list(tmp_path.glob(".one*"))
