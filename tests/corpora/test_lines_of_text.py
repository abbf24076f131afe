"""What is wrong with a line of text is said with the line that an editor shows, in one line."""

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lossline.corpora.benchmarks import gathered_items
from lossline.corpora.items import Item
from lossline.corpora.sources import FileSource, JsonLines, Parquet, PlainFiles, documents
from lossline.errors import UserError
from lossline.stores import prepare_all
from lossline.stores.prepare_all import PrepareOptions, StoreJob
from lossline.stores.task_store import write_task
from lossline.stores.token_store import TokenStore
from lossline.stores.vocabulary_training import TrainVocabulary, train_vocabulary
from lossline.vocabularies import ByteVocabulary
from lossline.vocabularies.training import Algorithm

GOOD = b'{"text": "good"}\n'
FAULTS = {
    "comma": (b'{"text": "good",}\n', "column 17: not JSON"),
    "comma after the object": (b'{"text": "good"},\n', "column 17: not JSON .Extra data"),
    "no end": (b'{"text": "good"\n', "column 16: not JSON"),
    "blank": (b"\n", "blank; delete the line"),
    "white space": (b" \t \n", "blank; delete the line"),
    "list": (b'["good"]\n', "holds a list; write one JSON object per line"),
    "null": (b"null\n", "holds null"),
    "null text": (b'{"text": null}\n', "no text under 'text' .it holds null"),
    "list of texts": (b'{"text": ["a"]}\n', "no text under 'text' .it holds a list"),
    "other fields": (b'{"id": 1, "body": ""}\n', "no text under 'text' .it has 'id', 'body'"),
    "byte": (b'{"text": "\xff"}\n', "column 11: byte 0xff is not UTF-8"),
    "byte after letters": ('{"text": "éé'.encode() + b'\x80"}\n', "column 13: byte 0x80 is no"),
    "surrogate as bytes": (b'{"text": "\xed\xa0\xbd"}\n', "column 11: byte 0xed is not UTF-8"),
    "first half": (b'{"text": "x \\ud83d y"}\n', "'text': lone surrogate U\\+D83D at character 3"),
    "second half": (b'{"text": "\\ude00"}\n', "'text': lone surrogate U\\+DE00 at character 1"),
    "halves exchanged": (b'{"text": "\\ude00\\ud83d"}\n', "'text': lone surrogate U\\+DE00"),
    "too deep": (b"[" * 100_000 + b"\n", "not JSON"),
    "number too long": (b'{"text": ' + b"1" * 5000 + b"}\n", "not JSON"),
}


def texts(source: FileSource) -> list[str]:
    return list(documents(source, "train"))


def refused(source: FileSource, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        texts(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("number", [1, 2, 900])
def test_a_fault_is_named_with_its_line(tmp_path: Path, fault: str, number: int) -> None:
    line, message = FAULTS[fault]
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD * (number - 1) + line + GOOD * 3)
    refused(JsonLines(name="x", train=(str(path),)), rf"a\.jsonl, line {number}[:,].*{message}")


@pytest.mark.parametrize("fault", ["comma", "blank", "byte", "first half"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: data.removesuffix(b"\n"),
        lambda data: b"\xef\xbb\xbf" + data,
    ],
    ids=["CRLF", "CR", "no last line end", "byte order mark"],
)
def test_lines_are_counted_whatever_ends_them(
    tmp_path: Path, fault: str, encode: Callable[[bytes], bytes]
) -> None:
    line, message = FAULTS[fault]
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode(GOOD * 6 + line + GOOD))
    refused(JsonLines(name="x", train=(str(path),)), rf"line 7[:,].*{message}")
    path.write_bytes(encode(GOOD * 8))
    assert texts(JsonLines(name="x", train=(str(path),))) == ["good"] * 8


@pytest.mark.parametrize("fault", ["comma", "blank", "byte", "null text"])
def test_lines_of_megabytes_and_compressed_files_are_counted(tmp_path: Path, fault: str) -> None:
    line, message = FAULTS[fault]
    long = json.dumps({"text": "é\u2028\u0085x" * 500_000}, ensure_ascii=False).encode() + b"\n"
    data = GOOD * 3000 + long + line + GOOD
    for suffix, compress in ((".jsonl", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(compress(data))
        refused(JsonLines(name="x", train=(str(path),)), rf"line 3002[:,].*{message}")


def test_the_file_of_several_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(GOOD * 5)
    (tmp_path / "2.jsonl").write_bytes(GOOD + FAULTS["blank"][0])
    refused(JsonLines(name="x", train=(str(tmp_path / "*.jsonl"),)), r"2\.jsonl, line 2: blank")


def test_whole_pairs_and_controls_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    expected = ["😀", "a\0", "\u2028 \x85 \x1c \r\n", "\ufeff", "<|endoftext|></s>", ""]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in expected))
    assert "\\ud83d\\ude00" in path.read_text()
    assert texts(JsonLines(name="x", train=(str(path),))) == expected


def test_plain_files_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\nfour \xff\n")
    refused(PlainFiles(name="x", train=(str(path),)), r"a\.txt, line 4: not UTF-8")
    refused(PlainFiles(name="x", train=(str(tmp_path),)), "cannot be read")


def test_parquet_names_the_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    source = Parquet(name="x", train=(str(path),))
    bad = pyarrow.array([b"good", b"\xffbad", b"ok"]).view(pyarrow.string())
    for column, message in (
        (bad, r"row 1 \(from 0\): 'text' holds no text in UTF-8"),
        (pyarrow.array(["a", "b", None]), r"row 2 \(from 0\): 'text' holds no text \(null\)"),
        (pyarrow.array([1, 2]), "'text' holds int64, no text"),
        (pyarrow.array([b"a"]), "'text' holds binary, no text"),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
        refused(source, rf"a\.parquet[:,].*{message}")
    kinds = (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view())
    columns = [pyarrow.array(["é", ""], kind) for kind in kinds]
    for column in [*columns, columns[0].dictionary_encode()]:
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), path)
        assert texts(source) == ["é", ""]
    data = bytearray(path.read_bytes())
    data[4:24] = b"x" * 20
    path.write_bytes(data)
    refused(source, r"a\.parquet: no Parquet file, or damaged")


def test_stores_and_vocabularies_of_such_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + FAULTS["first half"][0])
    source = JsonLines(name="x", train=(str(path),))
    job = StoreJob(vocabulary="bytes", sets=(source,), splits=("train",))
    options = PrepareOptions(root=str(tmp_path / "root"), stores=(job,), processes=1)
    with pytest.raises(UserError, match=r"a\.jsonl, line 2, 'text': lone surrogate"):
        prepare_all.prepare(options)
    assert not list((tmp_path / "root").rglob("train*"))
    for algorithm in Algorithm:
        spec = TrainVocabulary(name="v", algorithm=algorithm, vocab_size=300, sets=(source,))
        with pytest.raises(UserError, match=r"a\.jsonl, line 2, 'text': lone surrogate"):
            train_vocabulary(spec, tmp_path / "root")
        assert not list((tmp_path / "root" / "vocabularies").iterdir())


def test_special_names_and_nul_in_text_reach_the_store(tmp_path: Path) -> None:
    expected = ["a\0", "\0\0", "<|endoftext|></s><pad>", "é\0"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in expected))
    source = JsonLines(name="x", train=(str(path),))
    job = StoreJob(vocabulary="bytes", sets=(source,), splits=("train",))
    prepare_all.prepare(PrepareOptions(root=str(tmp_path), stores=(job,), processes=1))
    store = TokenStore.open(tmp_path / "stores/bytes/x/train")
    stored = [store.document(i) for i in range(len(expected))]
    assert [ByteVocabulary().decode(ids[:-1]) for ids in stored] == expected
    assert all((ids == ByteVocabulary().eos_id).sum() == 1 for ids in stored)


QUESTION = {"id": "q", "context": "One?", "choices": [" yes", " no"], "gold": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, column 2: not JSON"),
        ("", "line 2: blank"),
        ("[]", "line 2: holds a list"),
        (json.dumps({**QUESTION, "context": None}), "line 2: 'context' holds null"),
        (json.dumps({**QUESTION, "gold": "1"}), "line 2: 'gold' holds a text"),
        (json.dumps({**QUESTION, "gold": True}), "line 2: 'gold' holds true or false"),
        (json.dumps({**QUESTION, "choices": " yes"}), "line 2: 'choices' holds a text"),
        (json.dumps({**QUESTION, "choices": [" yes", 2]}), "line 2: a choice is a number"),
        (json.dumps({"id": "q", "context": "x", "gold": 1}), "line 2: 'choices' holds nothing"),
        (json.dumps({**QUESTION, "choices": [" \ud83d", " no"]}), "line 2: lone surrogate U.D83D"),
    ],
)
def test_questions_name_their_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(QUESTION)}\n{line}\n")
    with pytest.raises(UserError, match=rf"items\.jsonl, {message}"):
        list(gathered_items(path))


def test_questions_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    for context, choice in (("x\udcff", " a"), ("x", " \ud83d")):
        item = Item(id="q7", context=context, choices=(choice, " b"), gold=0)
        with pytest.raises(UserError, match="benchmark toy, question q7: lone surrogate"):
            write_task(tmp_path / "toy", [item], ByteVocabulary(), benchmark="toy")
    assert not list(tmp_path.iterdir())
