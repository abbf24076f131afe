"""Progress of a long step: the rate counts only the work of the present start."""

import pytest

from lossline.stores.store_writer import write_store
from lossline.terminal import WorkProgress
from lossline.vocabularies import ByteVocabulary


class Clock:
    now = 7.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock):
    """Progress of 10 MB that prints one line per call."""
    return WorkProgress("prepare", total=10e6, seconds=0.0, clock=clock)


def printed(capsys):
    return capsys.readouterr().err.splitlines()


def test_progress_prints_rate_and_time_left(progress, clock, capsys):
    clock.now += 2
    progress.advance(4e6)
    assert printed(capsys) == ["prepare: 4.0 of 10.0 MB, 2.00 MB/s, 3 s left"]


def test_rate_excludes_parts_of_an_earlier_start(progress, clock, capsys):
    for _ in range(2):
        clock.now += 1
        progress.found(3e6)
    clock.now += 2
    progress.advance(1e6)
    assert printed(capsys) == [
        "prepare: 3.0 of 10.0 MB",
        "prepare: 6.0 of 10.0 MB",
        "prepare: 7.0 of 10.0 MB, 0.50 MB/s, 6 s left",
    ]


def test_part_found_between_new_parts_does_not_change_the_rate(progress, clock, capsys):
    clock.now += 2
    progress.advance(2e6)
    clock.now += 2
    progress.found(4e6)
    assert printed(capsys)[-1] == "prepare: 6.0 of 10.0 MB, 0.50 MB/s, 8 s left"


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_no_rate_without_elapsed_time(clock, capsys, seconds):
    progress = WorkProgress("prepare", total=10e6, seconds=-100.0, clock=clock)
    clock.now += seconds
    progress.advance(4e6)
    assert printed(capsys) == ["prepare: 4.0 of 10.0 MB"]


def test_no_time_left_if_the_total_was_too_low(progress, clock, capsys):
    clock.now += 2
    progress.advance(12e6)
    assert printed(capsys) == ["prepare: 12.0 of 10.0 MB, 6.00 MB/s"]


def test_write_store_reports_found_and_new_text_separately(tmp_path):
    texts = [f"text number {n}. " for n in range(40)]
    whole = sum(len(text.encode()) for text in texts)

    class Killed(Exception):
        pass

    def killed(done: int) -> None:
        counts["first"] += done
        if counts["first"] > whole / 2:
            raise Killed

    counts = {"first": 0, "done": 0, "found": 0}
    chosen = {"vocabulary": ByteVocabulary(), "chunk": 100}
    with pytest.raises(Killed):
        write_store(tmp_path / "store", texts, report=killed, **chosen)
    write_store(
        tmp_path / "store",
        texts,
        report=lambda done: counts.update(done=counts["done"] + done),
        found=lambda done: counts.update(found=counts["found"] + done),
        **chosen,
    )
    assert counts["found"] == counts["first"] and counts["found"] + counts["done"] == whole
    assert 0 < counts["found"] < whole
