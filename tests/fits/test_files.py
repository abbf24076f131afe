"""Folders of results are written whole, and files of the user are kept."""

import pytest

from lossline.fits.files import FolderState, folder_state, writing_fit


def fitted(out, fingerprint, files):
    with writing_fit(out, fingerprint) as partial:
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
    assert folder_state(out, "two") is FolderState.SAME
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
    assert folder_state(tmp_path, "x") is FolderState.FOREIGN
