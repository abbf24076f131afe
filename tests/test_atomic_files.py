"""Files and folders appear complete or not at all, and have one writer at a time."""

import errno
import os
from pathlib import Path

import pytest

from lossline.errors import UserError
from lossline.files import building, building_anew, is_locked, locked, replacing, write_text


def test_an_error_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as failure:
        write_text(folder, "text")
    assert (failure.value.filename, failure.value.filename2) == (str(folder), None)

    with pytest.raises(OSError) as failure, replacing(tmp_path / "full"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write(2) does
    assert failure.value.filename == str(tmp_path / "full")
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


def test_a_finished_writer_leaves_the_folder_of_the_next_one(tmp_path: Path) -> None:
    with building(tmp_path / "store") as partial:
        os.replace(partial, tmp_path / "store")
        following = building(tmp_path / "store")
        assert following.__enter__() == partial
    assert partial.is_dir()
    following.__exit__(None, None, None)
    assert not partial.exists()


def test_a_second_writer_of_a_folder_is_refused(tmp_path: Path) -> None:
    with building(tmp_path / "store"), pytest.raises(UserError, match="another process"):
        building(tmp_path / "store").__enter__()


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
