"""Ranges of files give the same texts as the files, and the same errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lossline.corpora.file_texts import LineRange, line_ranges, row_group_ranges, whole_file_ranges
from lossline.errors import UserError

TEXTS = ["", "one", "é語😀" * 3, "two\r\nlines", "\ufeff", "x" * 50, "\u2028"]


def joined(end: str) -> bytes:
    return end.join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS).encode()


@pytest.mark.parametrize("size", [1, 2, 7, 16, 40, 1000])
@pytest.mark.parametrize(
    "content",
    [
        joined("\n"), joined("\n") + b"\n", joined("\r\n"), joined("\r"),
        b"\xef\xbb\xbf" + joined("\n"), joined("\n").replace(b"\n", b"\r", 2), b"",
    ],
    ids=["LF", "LF at the end", "CRLF", "CR", "byte order mark", "CR and LF", "empty"],
)  # fmt: skip
def test_ranges_of_lines_give_every_text_once(tmp_path: Path, content: bytes, size: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    found = [text for part in line_ranges(path, "text", size) for text in part.texts()]
    assert found == list(LineRange(path=path, field="text").texts()) == (TEXTS if content else [])


@pytest.mark.parametrize("size", [1, 9, 64, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_error_in_a_range_names_the_line_of_the_file(
    tmp_path: Path, end: str, size: int
) -> None:
    path = tmp_path / "a.jsonl"
    content = (joined("\n") + b"\n{\n" + joined("\n")).replace(b"\n", end.encode())
    path.write_bytes(content.replace(end.encode(), b"\r", 1))
    with pytest.raises(UserError, match=r"line 8, column 2: not JSON"):
        for part in line_ranges(path, "text", size):
            list(part.texts())


def test_compressed_files_are_not_cut(tmp_path: Path) -> None:
    assert list(line_ranges(tmp_path / "a.jsonl.gz", "text", 1)) == [
        LineRange(path=tmp_path / "a.jsonl.gz", field="text")
    ]


@pytest.mark.parametrize(("size", "count"), [(1, 4), (1 << 30, 1)])
def test_row_groups_give_every_text_once(tmp_path: Path, size: int, count: int) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    texts = [str(i) for i in range(20)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=6)
    ranges = list(row_group_ranges(path, "text", size))
    assert len(ranges) == count
    assert [text for part in ranges for text in part.texts()] == texts
    bad = pyarrow.array([*texts[:13], None, *texts[14:]])
    pyarrow.parquet.write_table(pyarrow.table({"text": bad}), path, row_group_size=6)
    with pytest.raises(UserError, match=r"row 13 \(from 0\): 'text' is null"):
        for part in row_group_ranges(path, "text", size):
            list(part.texts())


def test_whole_files_are_grouped_by_size(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.txt" for i in range(5)]
    for path in paths:
        path.write_text(path.stem * 10)
    ranges = list(whole_file_ranges(paths, 20))
    assert [len(part.paths) for part in ranges] == [2, 2, 1]
    assert [t for part in ranges for t in part.texts()] == [path.stem * 10 for path in paths]
