"""Files are replaced as a whole, and locks belong to living processes."""

import errno
import fcntl
import os
import socket
import stat
from pathlib import Path

import pytest

from lossline.errors import UserError
from lossline.files import building, building_anew, is_locked, locked, replacing, write_text


def refusal(owner: str) -> str:
    return f"owned by {owner}"


def test_error_while_writing_keeps_the_earlier_contents(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "earlier")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_written_files_have_the_permissions_of_the_umask(tmp_path):
    earlier = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(earlier)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_symbolic_link_stays_and_its_target_is_replaced(tmp_path):
    target, link = tmp_path / "disk" / "a.txt", tmp_path / "a.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("first", "second"):
        write_text(link, text)
        assert link.is_symlink() and target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("letter", ["a", "語"])
def test_longest_file_name_can_be_written(tmp_path, letter):
    path = tmp_path / (letter * (255 // len(letter.encode())))
    write_text(path, "new")
    assert path.read_text() == "new"


def test_lock_of_another_process_is_refused_with_its_owner(tmp_path):
    path = tmp_path / "lock"
    path.write_text("12345\n")  # a lock file of an earlier version, left by a process that ended
    assert not is_locked(path)
    with locked(path, refusal):
        assert is_locked(path)
        with pytest.raises(UserError, match=f"^owned by {os.getpid()} on "), locked(path, refusal):
            pass
        assert is_locked(path)  # the refusal released nothing
    assert not is_locked(path)


def test_lock_of_an_earlier_version_is_respected(tmp_path):
    path = tmp_path / "lock"
    path.write_text("12345\n")
    with path.open("r+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert is_locked(path)
        with pytest.raises(UserError, match=r"^owned by 12345$"), locked(path, refusal):
            pass


def test_error_in_the_block_releases_the_lock(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock", refusal):
            raise ZeroDivisionError
    assert not is_locked(tmp_path / "lock")


def test_is_locked_opens_no_file_for_writing(tmp_path, monkeypatch):
    """Runs of other users and read-only copies can be asked."""
    path, flags = tmp_path / "lock", []
    path.write_text("1\n")
    usual = os.open
    monkeypatch.setattr(
        os, "open", lambda file, flag, *rest: flags.append(flag) or usual(file, flag, *rest)
    )
    assert not is_locked(path)
    assert flags == [os.O_RDONLY]


def test_two_readers_of_a_lock_do_not_see_each_other(tmp_path):
    path = tmp_path / "lock"
    path.write_text("1\n")
    with path.open() as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not is_locked(path)


def test_file_system_without_locks_is_one_line(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    (tmp_path / "lock").write_text("")
    monkeypatch.setattr(fcntl, "flock", unsupported)
    message = r"cannot lock files \(Function not implemented\)\. Use a folder on another"
    with pytest.raises(UserError, match=message), locked(tmp_path / "lock", refusal):
        pass
    with pytest.raises(UserError, match=message):
        is_locked(tmp_path / "lock")
    with pytest.raises(UserError, match=message), building(tmp_path / "store"):
        pass


@pytest.mark.parametrize("build", [building, building_anew])
def test_second_writer_of_a_folder_is_refused(tmp_path, build):
    with build(tmp_path / "store") as partial:
        (partial / "part").write_text("kept")
        refused = pytest.raises(UserError, match="another process is writing it")
        with refused, build(tmp_path / "store"):
            pass
        assert (partial / "part").read_text() == "kept"


@pytest.mark.parametrize(("build", "left"), [(building, ["store.partial"]), (building_anew, [])])
def test_interrupted_folder_is_kept_by_building_and_removed_by_building_anew(tmp_path, build, left):
    with pytest.raises(KeyboardInterrupt), build(tmp_path / "store") as partial:
        (partial / "part").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == left


def test_unfinished_files_of_a_killed_writer_are_removed(tmp_path):
    left = tmp_path / "store.partial"
    left.mkdir()
    for name in ("part", ".manifest.json.1a2b3c4d.partial"):
        (left / name).write_text("")
    with building(tmp_path / "store") as partial:
        assert [path.name for path in partial.iterdir()] == ["part"]


def test_finished_writer_leaves_the_folder_of_the_next_writer(tmp_path):
    path = tmp_path / "store"
    with building(path) as partial:
        partial.rename(path)
        partial.mkdir()  # the next writer starts before this one has left
    assert partial.is_dir()


def test_an_error_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as failure:
        write_text(folder, "text")
    assert (failure.value.filename, failure.value.filename2) == (str(folder), None)

    with pytest.raises(OSError) as failure, replacing(tmp_path / "full"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write(2) does
    assert failure.value.filename == str(tmp_path / "full")
    with pytest.raises(OSError) as failure, building_anew(tmp_path / "fit"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert failure.value.filename == str(tmp_path / "fit")
    assert [item.name for item in tmp_path.iterdir()] == ["folder"]


def test_a_folder_of_the_user_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    kept = tmp_path / "fit.partial" / "fit.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    with building_anew(tmp_path / "fit") as partial:
        os.replace(partial, tmp_path / "fit")
    assert kept.read_text() == "{}"


def test_leftovers_of_a_killed_writer_are_emptied(tmp_path: Path) -> None:
    with building_anew(tmp_path / "fit") as partial:
        (partial / "half").write_text("[")
        left = tmp_path / "left"
        os.rename(partial, left)
    os.rename(left, partial)
    with building_anew(tmp_path / "fit") as again:
        assert again == partial and not list(again.iterdir())


def test_a_lock_names_its_owner_and_ends_with_the_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path) and not path.exists()
    with locked(path, str):
        assert is_locked(path)
        with pytest.raises(UserError, match=rf"^{os.getpid()} on "), locked(path, str):
            pass
    assert not is_locked(path)


def test_a_lock_file_of_another_user_can_be_asked(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    open_ = os.open

    def read_only(name, flags, *mode):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(errno.EACCES, "Permission denied", name)
        return open_(name, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    assert not is_locked(path)


def test_lock_file_names_only_its_present_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("1 on a host with a name longer than any other in this test\n")
    with locked(path, str):
        assert path.read_text() == f"{os.getpid()} on {socket.gethostname()}\n"
