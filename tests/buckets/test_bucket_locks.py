"""One writer in a bucket: conditional create, renewal, takeover of a left lock, fencing."""

import dataclasses
import subprocess
import sys
import time

import pytest

from lossline.buckets import lease, objects
from lossline.errors import UserError
from lossline.files import building, is_locked, locked, write_text
from lossline.places import to_path

HOLD = """
import sys, time
from lossline.files import locked
from lossline.places import to_path
with locked(to_path(sys.argv[1]), str):
    print("held", flush=True)
    time.sleep(60)
"""


def refusal(owner: str) -> str:
    return f"owned by {owner}"


def elsewhere() -> lease.Holder:
    """A holder on another machine."""
    return dataclasses.replace(
        lease.Holder.of_this_process(), process="12 on far", machine="far", pid=12
    )


def ended() -> lease.Holder:
    """A holder on this machine whose process has ended."""
    return dataclasses.replace(lease.Holder.of_this_process(), started=1)


@pytest.fixture
def lock(bucket):
    return to_path(f"{bucket}/run/lock")


def test_a_lock_is_held_for_a_block_and_excludes_others(lock):
    assert not is_locked(lock)
    with locked(lock, refusal):
        assert is_locked(lock)
        with pytest.raises(UserError, match=r"^owned by \d+ on "), locked(lock, refusal):
            pass
        write_text(lock.parent / "a.txt", "by the holder")
    assert not is_locked(lock) and not lock.exists()


def test_second_process_is_refused_and_takes_over_after_a_kill(lock, emulator):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"^owned by {holder.pid} on "), locked(lock, refusal):
            pass
        holder.kill()
    assert lock.exists() and not is_locked(lock)
    with locked(lock, refusal):
        assert is_locked(lock)


@pytest.mark.usefixtures("quick_locks")
def test_lock_of_another_machine_is_refused_once_it_is_renewed(lock, capsys):
    generation = objects.write(str(lock), elsewhere().bytes())
    other = lease.Lease(str(lock), generation, elsewhere(), (str(lock.parent),))
    other._holder = lease.Holder.read(lock.read_bytes())
    other.start()
    with pytest.raises(UserError, match="owned by 12 on far"), locked(lock, refusal):
        pass
    assert "waiting to see whether it lives" in capsys.readouterr().err
    other.release()
    with locked(lock, refusal):
        pass


@pytest.mark.usefixtures("quick_locks")
def test_lock_that_is_not_renewed_is_taken_over_by_the_server_clock(lock, emulator):
    objects.write(str(lock), elsewhere().bytes())
    assert is_locked(lock)
    emulator.clock_ahead = 3600
    assert not is_locked(lock)
    with locked(lock, refusal):
        assert b"far" not in lock.read_bytes()


@pytest.mark.usefixtures("quick_locks")
def test_of_two_that_take_a_left_lock_over_one_succeeds(lock, emulator):
    generation = objects.write(str(lock), ended().bytes())
    assert lease._write(str(lock), lease.Holder.of_this_process(), generation) is not None
    assert lease._write(str(lock), lease.Holder.of_this_process(), generation) is None


@pytest.mark.usefixtures("quick_locks")
def test_owner_that_lost_its_lock_stops_before_it_writes(lock):
    with locked(lock, refusal):
        write_text(lock.parent / "a.txt", "ours")
        objects.write(str(lock), elsewhere().bytes())
        time.sleep(0.6)
        for write in (
            lambda: write_text(lock.parent / "a.txt", "late"),
            lambda: (lock.parent / "a.txt").unlink(),
        ):
            with pytest.raises(UserError, match="process 12 on far has taken its lock over"):
                write()
    assert (lock.parent / "a.txt").read_text() == "ours"
    assert lease.Holder.read(lock.read_bytes()).process == "12 on far"  # not deleted


@pytest.mark.parametrize("kind", ["refused", "closed", "late", "done but 503"])
def test_lost_answers_of_a_create_and_of_a_renewal_are_recognized(lock, emulator, kind):
    emulator.fail(kind, lambda r: r.action == "write" and r.name.endswith("lock"), times=2)
    with locked(lock, refusal):
        (held,) = lease._held
        emulator.fail(kind, lambda r: r.action == "write" and r.name.endswith("lock"), times=2)
        held._renew()
        held._renewed -= 1000
        held.confirm()
        emulator.fail(kind, lambda r: r.action == "delete", times=2)
    assert not lock.exists()


def test_a_create_that_was_acknowledged_but_not_stored_is_tried_again(lock, emulator):
    emulator.fail("forgotten", lambda r: r.action == "write")
    with locked(lock, refusal):
        assert is_locked(lock)


def test_owner_that_cannot_reach_the_server_does_not_write(lock, emulator):
    with locked(lock, refusal):
        (held,) = lease._held
        held._renewed -= 1000
        emulator.fail("refused", lambda r: r.name.endswith("lock"), times=30)
        with pytest.raises(UserError, match="does not answer"):
            write_text(lock.parent / "a.txt", "text")
        emulator.faults.clear()
        write_text(lock.parent / "a.txt", "text")


def test_second_builder_of_a_folder_is_refused_and_the_first_resumes(bucket):
    path = to_path(f"{bucket}/stores/wiki")
    with pytest.raises(ZeroDivisionError), building(path) as partial:
        write_text(partial / "part-0", "done")
        with pytest.raises(UserError, match="another process is writing it"), building(path):
            pass
        raise ZeroDivisionError
    with building(path) as partial:
        assert (partial / "part-0").read_text() == "done"
