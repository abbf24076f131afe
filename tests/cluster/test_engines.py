"""Every engine gives the same results, and every failure is one line."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from standing_cluster import ROOT, StandingCluster

from lossline.cluster import connect, dask_engine, worker_name
from lossline.cluster.engine import Engine, WorkLost
from lossline.errors import UserError


@pytest.fixture(params=["one process", "two processes", "dask"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "dask":
        with connect(request.getfixturevalue("dask_cluster").address) as made:
            yield made
    else:
        with connect("local", processes=1 if request.param == "one process" else 2) as made:
            yield made


def test_every_unit_gives_one_result(engine: Engine) -> None:
    found = list(engine.run(math.factorial, iter(range(30))))
    assert sorted(found) == [(n, math.factorial(n)) for n in range(30)]
    assert list(engine.run(math.factorial, [])) == []


def refused(number: int) -> int:
    if number == 2:
        raise UserError(f"unit {number}: is refused. Fix it.")
    return number


def test_a_user_error_arrives_as_the_same_line(engine: Engine) -> None:
    with pytest.raises(UserError) as found:
        list(engine.run(refused, range(5)))
    assert str(found.value) == "unit 2: is refused. Fix it."
    assert sorted(engine.run(refused, [5, 6])) == [(0, 5), (1, 6)]  # the engine still works


def counted(folder_and_number: tuple[str, int]) -> None:
    folder, number = folder_and_number
    Path(folder, str(number)).touch()
    time.sleep(0.02)


def test_few_units_are_in_flight(engine: Engine, tmp_path: Path) -> None:
    taken = 0

    def units() -> Iterator[tuple[str, int]]:
        nonlocal taken
        for taken in range(1, 101):
            yield str(tmp_path), taken

    running = engine.run(counted, units())
    next(running)
    assert taken < 15
    running.close()  # type: ignore[attr-defined]
    assert len(list(tmp_path.iterdir())) < 20


def full_disk(number: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/scratch/part")


def test_a_full_disk_names_the_file_and_the_worker(dask_cluster: StandingCluster) -> None:
    with connect(dask_cluster.address) as engine, pytest.raises(UserError) as found:
        list(engine.run(full_disk, range(3)))
    assert re.match(
        r"worker tcp://127.0.0.1:\d+: /scratch/part: No space left on device. Free space there. "
        "Run the same command again; parts that are finished are not made again.",
        str(found.value),
    )


def test_a_path_that_a_worker_does_not_see(dask_cluster: StandingCluster) -> None:
    with (
        connect(dask_cluster.address) as engine,
        pytest.raises(UserError, match=r"worker tcp://.*: /only/here: No such file .* share"),
    ):
        list(engine.run(os.listdir, ["/only/here"]))


def own_name(number: int) -> str:
    return worker_name()


def test_a_worker_has_a_name(dask_cluster: StandingCluster) -> None:
    with connect(dask_cluster.address) as engine:
        assert dict(engine.run(own_name, [0]))[0].startswith("worker tcp://127.0.0.1:")
    assert worker_name() == "this machine"


def killed_once(marker: str) -> str:
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        return marker
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_a_killed_worker_of_dask_costs_nothing(
    dask_cluster: StandingCluster, tmp_path: Path
) -> None:
    units = [str(tmp_path / "one")] * 4
    with connect(dask_cluster.address) as engine:
        assert sorted(engine.run(killed_once, units)) == list(enumerate(units))
    dask_cluster.start_worker()


def test_a_killed_process_of_this_machine_is_one_line(tmp_path: Path) -> None:
    with (
        connect("local", processes=2) as engine,
        pytest.raises(UserError, match="a worker process was killed after 0 pieces"),
    ):
        list(engine.run(killed_once, [str(tmp_path / "a"), str(tmp_path / "b")], what="pieces"))


@pytest.mark.parametrize("cluster", ["somewhere:8786", "tcp://", "tcp://host", "tcp://h:x", "auto"])
def test_a_malformed_address_is_refused(cluster: str) -> None:
    with pytest.raises(UserError, match=rf"'{cluster}': give 'local', or the address"):
        connect(cluster)


def test_an_address_without_a_scheduler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_engine, "ANSWER_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (9, silent.getsockname()[1]):
            address = f"tcp://127.0.0.1:{port}"
            with pytest.raises(UserError, match=f"{address}: the scheduler does not"):
                connect(address)
    with pytest.raises(UserError, match=r"certificates are missing. Set distributed.comm.tls"):
        connect("tls://127.0.0.1:9")


def test_the_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"needs the package distributed .*\[cluster\] extra"):
        connect("tcp://127.0.0.1:8786")


def test_workers_that_are_missing_have_other_code_or_die(
    harmed_cluster: StandingCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_engine, "WORKER_SECONDS", 0.3)
    with pytest.raises(UserError, match="the scheduler has no worker after"):
        connect(harmed_cluster.address)
    monkeypatch.setattr(dask_engine, "WORKER_SECONDS", 60)

    shutil.copytree(ROOT / "lossline", tmp_path / "lossline")
    with (tmp_path / "lossline" / "errors.py").open("a") as file:
        file.write("# another version\n")
    other = harmed_cluster.start_worker(root=tmp_path)
    with pytest.raises(UserError, match=r"worker tcp://.* runs lossline \w{12}, but this .*\w{12}"):
        connect(harmed_cluster.address)
    # A worker that joins after the check is found by its first unit.
    monkeypatch.setattr(dask_engine.DaskEngine, "_check_workers", lambda self: None)
    with connect(harmed_cluster.address) as engine:
        with pytest.raises(UserError, match=r"worker tcp://.* their source files differ"):
            list(engine.run(math.factorial, range(4)))
        _end(other)
        harmed_cluster.start_worker()
        with pytest.raises(UserError, match="1 workers died on the same unit of work, the last"):
            list(engine.run(killed_once, [str(tmp_path / "killed")]))


def test_a_lost_scheduler_is_one_line(
    harmed_cluster: StandingCluster, capfd: pytest.CaptureFixture[str]
) -> None:
    harmed_cluster.start_worker()
    with connect(harmed_cluster.address) as engine:
        running = engine.run(time.sleep, [0.01] * 1000)
        next(running)
        _end(harmed_cluster.scheduler)
        with pytest.raises(UserError, match=r"connection to the scheduler was lost. Run the same"):
            list(running)
    assert "Traceback" not in capfd.readouterr().err
    harmed_cluster.start_scheduler()
    harmed_cluster.start_worker()
    with connect(harmed_cluster.address) as engine:
        assert list(engine.run(math.factorial, [3])) == [(0, 6)]


def test_a_silent_scheduler_is_one_line(
    harmed_cluster: StandingCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    harmed_cluster.start_worker()
    with connect(harmed_cluster.address) as engine:
        monkeypatch.setattr(dask_engine, "SILENT_SECONDS", 0.5)
        monkeypatch.setattr(dask_engine, "_LOOK_SECONDS", 0.2)
        running = engine.run(time.sleep, [0.01] * 1000)
        next(running)
        harmed_cluster.scheduler.send_signal(signal.SIGSTOP)  # its connections stay open
        with pytest.raises(
            WorkLost, match=r"has not answered for 0.5 s.* Run the same command again"
        ):
            list(running)
    monkeypatch.setattr(dask_engine, "SILENT_SECONDS", 60)
    harmed_cluster.scheduler.send_signal(signal.SIGCONT)
    with connect(harmed_cluster.address) as engine:
        assert list(engine.run(math.factorial, [3])) == [(0, 6)]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
