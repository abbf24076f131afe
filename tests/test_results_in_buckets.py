"""Folders of results in a bucket: whole or absent, and files of the user are kept."""

import pytest

from lossline import files
from lossline.errors import UserError
from lossline.places import to_path
from lossline.results_folder import FolderState, ResultsFolder

FOLDER = ResultsFolder(verb="fit")


def fitted(out, fingerprint, names):
    with FOLDER.writing(out, fingerprint) as partial:
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(fingerprint)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.name != "fit.json"
    }


def test_new_results_replace_the_earlier_ones_and_keep_files_of_the_user(bucket):
    out = to_path(f"{bucket}/fits/a")
    assert FOLDER.state(out, "one") is FolderState.FREE
    fitted(out, "one", ["lines.json", "figures/old.png"])
    assert FOLDER.is_up_to_date(out, "one", replace=False)
    files.write_text(out / "notes.txt", "mine")
    files.write_text(out / "new.json", "mine")
    with pytest.raises(UserError, match="add --replace"):
        FOLDER.is_up_to_date(out, "two", replace=False)
    fitted(out, "two", ["lines.json", "new.json"])
    assert contents(out) == {
        "lines.json": "two", "new.json": "two", "new.json.earlier": "mine", "notes.txt": "mine",
    }  # fmt: skip
    assert FOLDER.is_up_to_date(out, "two", replace=False)
    assert [path.name for path in out.parent.iterdir()] == ["a"]


def test_an_interrupted_upload_is_no_result_and_is_finished_by_the_next(bucket, emulator):
    out = to_path(f"{bucket}/fits")
    fitted(out, "one", ["a.json", "b.json"])
    files.write_text(out / "notes.txt", "mine")
    emulator.fail(
        "refused", lambda r: r.action == "write" and r.name == "fits/c.json", times=99, status=403
    )
    with pytest.raises(UserError, match="no permission"):
        fitted(out, "two", ["a.json", "c.json"])
    emulator.faults.clear()
    assert not (out / "fit.json").exists() and not FOLDER.is_up_to_date(out, "two", replace=False)
    fitted(out, "three", ["d.json"])
    assert contents(out) == {"d.json": "three", "notes.txt": "mine"}


def test_error_in_the_block_leaves_the_bucket_as_it_was(bucket, emulator):
    out = to_path(f"{bucket}/fits")
    with pytest.raises(ZeroDivisionError), FOLDER.writing(out, "one") as partial:
        (partial / "a.json").write_text("half")
        raise ZeroDivisionError
    assert list(out.parent.iterdir()) == []


def test_folder_of_the_user_is_refused(bucket):
    out = to_path(f"{bucket}/mine")
    files.write_text(out / "a.txt", "mine")
    with pytest.raises(UserError, match="not empty and contains no results"):
        FOLDER.is_up_to_date(out, "one", replace=True)
