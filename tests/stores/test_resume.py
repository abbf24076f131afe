"""A killed writer leaves no store; the next writer resumes from the finished parts."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lossline.errors import UserError
from lossline.files import building
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import Bytes, ByteVocabulary

COUNT = 60
KILLED = """
import os, signal, sys
from lossline.stores.store_writer import write_store
from lossline.vocabularies import ByteVocabulary

def documents():
    for i in range({count}):
        if i == {stop}:
            os.kill(os.getpid(), signal.SIGKILL)
        yield f"document {{i}} " * 20

write_store(sys.argv[1], documents(), ByteVocabulary(), chunk=2000)
"""


def documents() -> list[str]:
    return [f"document {i} " * 20 for i in range(COUNT)]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Path of a store whose writer was killed after two thirds of the documents."""
    path = tmp_path / "store"
    code = KILLED.format(count=COUNT, stop=40)
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    return path


def test_killed_writer_leaves_no_store_and_the_next_resumes(killed: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such store"):
        TokenStore.open(killed)
    parts = {
        path: path.stat() for path in (killed.parent / "store.partial" / "parts").glob("*.part")
    }
    assert len(parts) > 3
    done = []
    resumed = write_store(killed, _watched(parts), ByteVocabulary(), chunk=2000, report=done.append)
    whole = write_store(tmp_path / "whole", documents(), ByteVocabulary(), chunk=2000)
    assert resumed.manifest.fingerprint == whole.manifest.fingerprint
    assert sum(done) == whole.manifest.bytes
    TokenStore.open(killed, verify=True)
    assert not (killed.parent / "store.partial").exists()


def _watched(parts: dict) -> list[str]:
    """Yield the documents; then assert that no finished part was written again."""

    def texts():
        yield from documents()
        for path, stat in parts.items():
            assert path.stat().st_mtime_ns == stat.st_mtime_ns

    return texts()


def test_damaged_and_foreign_parts_are_replaced(killed: Path, tmp_path: Path) -> None:
    found = sorted((killed.parent / "store.partial" / "parts").glob("*.part"))
    found[0].write_bytes(found[0].read_bytes()[:-50])
    found[1].write_bytes(b"x" + found[1].read_bytes()[1:])
    found[2].write_bytes(found[3].read_bytes())
    resumed = write_store(killed, documents(), ByteVocabulary(), chunk=2000)
    whole = write_store(tmp_path / "whole", documents(), ByteVocabulary())
    assert resumed.manifest.fingerprint == whole.manifest.fingerprint


def test_parts_of_changed_text_are_replaced(killed: Path, tmp_path: Path) -> None:
    changed = ["another beginning " * 20, *documents()[1:]]
    resumed = write_store(killed, changed, ByteVocabulary(), chunk=2000)
    whole = write_store(tmp_path / "whole", changed, ByteVocabulary(), chunk=2000)
    assert resumed.manifest.fingerprint == whole.manifest.fingerprint


def test_worker_processes_give_the_same_store(tmp_path: Path) -> None:
    one = write_store(tmp_path / "one", documents(), Bytes(), chunk=2000)
    two = write_store(tmp_path / "two", documents(), Bytes(), chunk=2000, processes=2)
    assert one.manifest == two.manifest


def test_second_writer_at_the_same_path_is_refused(tmp_path: Path) -> None:
    with (
        building(tmp_path / "store"),
        pytest.raises(UserError, match="another process is writing it"),
    ):
        write_store(tmp_path / "store", documents(), ByteVocabulary())
    write_store(tmp_path / "store", documents(), ByteVocabulary())
