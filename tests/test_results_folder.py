"""Folders of results are written whole, and files of the user are kept."""

import os
from pathlib import Path

import pytest

from lossline.errors import UserError
from lossline.results_folder import FolderState, ResultsFolder

FOLDER = ResultsFolder(verb="fit")


def fitted(out, fingerprint, files):
    with FOLDER.writing(out, fingerprint) as partial:
        for name in files:
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(fingerprint)


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_new_fit_removes_the_earlier_one_and_keeps_files_of_the_user(tmp_path):
    out = tmp_path / "fits"
    fitted(out, "one", ["lines.json", "figures/old.png", "figures/both.png"])
    (out / "notes.txt").write_text("mine")
    (out / "figures" / "mine.png").write_text("mine")
    (out / "new.json").write_text("mine")
    fitted(out, "two", ["lines.json", "figures/both.png", "new.json"])
    assert names(out) == {
        "fit.json", "lines.json", "figures/both.png", "new.json", "new.json.earlier", "notes.txt",
        "figures/mine.png",
    }  # fmt: skip
    for name in ("notes.txt", "figures/mine.png", "new.json.earlier"):
        assert (out / name).read_text() == "mine"
    for name in ("lines.json", "figures/both.png", "new.json"):
        assert (out / name).read_text() == "two"
    assert FOLDER.state(out, "two") is FolderState.SAME
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]
    fitted(out, "three", ["lines.json"])
    assert names(out) == {
        "fit.json", "lines.json", "new.json.earlier", "notes.txt", "figures/mine.png"
    }  # fmt: skip
    (out / "new.json").write_text("mine too")
    fitted(out, "four", ["new.json"])
    kept = {name: (out / name).read_text() for name in names(out) if name.startswith("new.json")}
    assert set(kept) == {"new.json", "new.json.earlier", "new.json.earlier1"}
    assert sorted(kept.values()) == ["four", "mine", "mine too"]


@pytest.mark.parametrize(
    "mark", [None, "{", "{}", "[]", '{"what": "a diary", "fingerprint": "x"}', "\xff"]
)
def test_folder_without_a_valid_mark_is_foreign(tmp_path, mark):
    (tmp_path / "a.txt").write_text("mine")
    if mark:
        (tmp_path / "fit.json").write_text(mark, encoding="latin-1")
    assert FOLDER.state(tmp_path, "x") is FolderState.FOREIGN


def test_something_put_there_during_the_fit_stays(tmp_path):
    out = tmp_path / "fits"
    with pytest.raises(UserError, match="something else was put there"), FOLDER.writing(out, "one"):
        out.mkdir()
        (out / "chapter.txt").write_text("years of work")
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]
    assert names(out) == {"chapter.txt"}


def test_a_symbolic_link_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    out = tmp_path / "fits"
    out.symlink_to("disk")
    fitted(out, "one", ["lines.json"])
    (out / "notes.txt").write_text("mine")
    fitted(out, "two", ["lines.json"])
    assert out.is_symlink() and (tmp_path / "disk" / "lines.json").read_text() == "two"
    assert names(tmp_path / "disk") == {"fit.json", "lines.json", "notes.txt"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "fits"]


def test_the_working_folder_may_be_the_output(tmp_path, monkeypatch):
    (tmp_path / "fits").mkdir()
    monkeypatch.chdir(tmp_path / "fits")
    fitted(Path("."), "one", ["lines.json"])
    assert names(tmp_path / "fits") == {"fit.json", "lines.json"}


@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_fit_killed_while_it_replaces_another_loses_nothing(tmp_path, monkeypatch, killed_at):
    """Renames 1 and 2 exchange the folders, rename 3 carries the user's file over."""
    out = tmp_path / "fits"
    fitted(out, "one", ["lines.json"])
    (out / "notes.txt").write_text("mine")
    rename, calls = os.rename, []

    def killed(source, target):
        calls.append(source)
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("lossline.results_folder.os.rename", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(out, "two", ["lines.json"])
    FOLDER.finish_replacement(out)
    assert (out / "notes.txt").read_text() == "mine"
    fitted(out, "two", ["lines.json"])
    assert names(out) == {"fit.json", "lines.json", "notes.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]


def test_folder_of_another_verb_is_never_replaced(tmp_path):
    out = tmp_path / "fits"
    fitted(out, "one", ["lines.json"])
    other = ResultsFolder(verb="predict")
    with pytest.raises(UserError, match=r"contains no results of lossline\.predict"):
        other.is_up_to_date(out, "one", replace=True)
    assert FOLDER.is_up_to_date(out, "one", replace=False)
    with pytest.raises(UserError, match="of other inputs or of other code"):
        FOLDER.is_up_to_date(out, "two", replace=False)
    assert not FOLDER.is_up_to_date(out, "two", replace=True)


def test_results_that_lack_a_file_of_their_own_are_made_again(tmp_path):
    out = tmp_path / "fits"
    fitted(out, "one", ["lines.json", "figures/a.png"])
    (out / "notes.txt").write_text("mine")
    assert FOLDER.is_up_to_date(out, "one", replace=False)
    (out / "figures" / "a.png").unlink()
    assert not FOLDER.is_up_to_date(out, "one", replace=False)
    fitted(out, "one", ["lines.json", "figures/a.png"])
    assert FOLDER.is_up_to_date(out, "one", replace=False)
    assert (out / "notes.txt").read_text() == "mine"
