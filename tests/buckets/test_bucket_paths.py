"""Paths at gs:// behave like local ones, and are written whole or not at all."""

import pickle

import pytest

from lossline.errors import UserError
from lossline.files import publish, remove_folder, replacing, write_bytes, write_json, write_text
from lossline.places import to_path


def test_a_file_is_written_read_listed_and_deleted(bucket):
    root = to_path(f"{bucket}/runs")
    assert not root.exists() and list(root.iterdir()) == []
    write_json(root / "a" / "facts.json", {"n": 1})
    write_text(root / "b #1" / "é.txt", "é語\n")
    write_bytes(root / "x.bin", b"\x00\xff")
    assert str(root / "x.bin") == f"{bucket}/runs/x.bin"
    assert [item.name for item in root.iterdir()] == ["a", "b #1", "x.bin"]
    assert [str(p) for p in root.glob("*/*.json")] == [f"{bucket}/runs/a/facts.json"]
    assert sorted(p.name for p in root.rglob("*")) == ["facts.json", "x.bin", "é.txt"]
    assert (root / "b #1" / "é.txt").read_text(encoding="utf-8") == "é語\n"
    assert (root / "x.bin").read_bytes() == b"\x00\xff" and (root / "x.bin").stat().st_size == 2
    assert (root / "a").is_dir() and not (root / "a").is_file() and not (root / "x").exists()
    (root / "x.bin").unlink()
    remove_folder(root / "a")
    assert [item.name for item in root.iterdir()] == ["b #1"]
    with pytest.raises(FileNotFoundError):
        (root / "x.bin").read_bytes()
    with pytest.raises(FileNotFoundError):
        (root / "x.bin").unlink()


def test_names_and_pickles_of_paths(bucket):
    path = to_path(f"{bucket}/runs/a.b.json")
    assert (path.name, path.stem, path.suffix) == ("a.b.json", "a.b", ".json")
    assert str(path.parent) == f"{bucket}/runs" and path.with_name("c") == path.parent / "c"
    assert pickle.loads(pickle.dumps(path)) == path and type(path.parent) is type(path)
    assert path.relative_to(path.parent).as_posix() == "a.b.json"


def test_a_failed_block_writes_nothing_and_keeps_the_earlier_object(bucket, emulator):
    path = to_path(f"{bucket}/a.txt")
    write_text(path, "earlier")
    for mode, half in (("w", "half"), ("wb", b"half")):
        with pytest.raises(ZeroDivisionError), path.open(mode) as file:
            file.write(half)
            raise ZeroDivisionError
        path.open(mode).write(half)  # never closed
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "earlier"
    with path.open("w", encoding="utf-8") as file:
        file.write("new\n")
    with path.open(encoding="utf-8") as file:
        assert list(file) == ["new\n"]


def test_a_large_file_is_sent_in_parts_and_appears_whole(bucket, emulator):
    path = to_path(f"{bucket}/large.bin")
    content = bytes(range(256)) * 4 * 9000  # 9.2 MB
    emulator.fail("refused", lambda r: r.action == "write", after=1, times=9, status=400)
    with pytest.raises(UserError), replacing(path) as partial:
        partial.write_bytes(content)
    assert not path.exists()
    emulator.faults.clear()
    with replacing(path) as partial:
        partial.write_bytes(content)
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["refused", "closed", "late", "done but 503"])
def test_a_failing_request_is_repeated(bucket, emulator, kind):
    path = to_path(f"{bucket}/a.txt")
    for action in ("write", "read", "stat", "list"):
        emulator.fail(kind, lambda r, a=action: r.action == a, times=2)
    write_text(path, "text")
    assert path.read_text() == "text" and path.exists() and path.parent.is_dir()


def test_a_server_that_does_not_answer_is_never_taken_for_an_absent_file(bucket, emulator):
    path = to_path(f"{bucket}/config.json")
    write_text(path, "{}")
    emulator.fail("refused", lambda r: True, times=99)
    for ask in (path.exists, path.is_file, path.is_dir, path.read_text, lambda: [*path.iterdir()]):
        with pytest.raises(UserError, match=r"does not answer .*503"):
            ask()


def test_a_folder_is_published_with_its_mark_last(bucket, emulator):
    partial, path = to_path(f"{bucket}/store.partial"), to_path(f"{bucket}/store")
    for name in ("manifest.json", "tokens/c/0", "tokens/zarr.json"):
        write_text(partial / name, name)
    emulator.seen.clear()
    publish(partial, path, mark="manifest.json")
    copied = [request.name for request in emulator.seen if request.action == "copy"]
    assert copied[-1] == "store/manifest.json" and len(copied) == 3
    assert not partial.exists() and (path / "tokens" / "c" / "0").read_text() == "tokens/c/0"


@pytest.mark.parametrize(
    ("status", "said"),
    [(403, "no permission"), (401, "no valid credentials"), (404, "no such bucket")],
)
def test_a_bucket_that_cannot_be_used_is_one_line(bucket, emulator, status, said):
    path = to_path(f"{bucket}/a.txt")
    emulator.fail("refused", lambda r: True, times=99, status=status)
    with pytest.raises(UserError, match=f"^{bucket}: {said}"):
        write_text(path, "text")


def test_missing_bucket_is_one_line(emulator):
    with pytest.raises(UserError, match=r"^gs://absent-bucket: no such bucket"):
        list(to_path("gs://absent-bucket/runs").iterdir())


def test_other_schemes_and_a_missing_package_are_one_line(monkeypatch):
    with pytest.raises(UserError, match=r"train.root = s3://b/x: s3:// is not supported.*gs://"):
        to_path("s3://b/x", "train.root")
    with pytest.raises(UserError, match="names no bucket"):
        to_path("gs:///x")
    from lossline.buckets import objects

    objects.file_system.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "gcsfs.core", None)
    with pytest.raises(UserError, match=r"need the package gcsfs.*\[buckets\]"):
        to_path("gs://bucket/x")


def test_a_server_that_does_not_answer_is_one_line_and_nothing_is_logged(bucket, emulator, caplog):
    emulator.fail("refused", lambda r: r.action == "write", times=99)
    with pytest.raises(UserError, match="does not answer") as caught:
        write_text(to_path(f"{bucket}/a.txt"), "text")
    assert "\n" not in str(caught.value) and not caplog.records


def test_epath_never_takes_tensorflow_whatever_becomes_of_the_environment(monkeypatch):
    from etils.epath import gpath

    from lossline.buckets import objects

    objects.file_system.cache_clear()
    gpath._is_tf_installed.cache_clear()
    objects.file_system()
    monkeypatch.delenv("EPATH_USE_TF")
    assert not gpath._is_tf_installed()
