"""Errors in text files are one line and name the line number that an editor shows."""

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lossline.corpora.items import Item, gathered_items
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
    "blank": (b"\n", "blank line. Delete it"),
    "white space": (b" \t \n", "blank line. Delete it"),
    "list": (b'["good"]\n', "is a list. Write one JSON object per line"),
    "null": (b"null\n", "is null"),
    "null text": (b'{"text": null}\n', "no text under 'text' .it is null"),
    "list of texts": (b'{"text": ["a"]}\n', "no text under 'text' .it is a list"),
    "other fields": (b'{"id": 1, "body": ""}\n', "no text under 'text' .keys: 'id', 'body'"),
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
def test_error_names_the_line(tmp_path: Path, fault: str, number: int) -> None:
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
def test_line_number_is_right_for_every_line_ending(
    tmp_path: Path, fault: str, encode: Callable[[bytes], bytes]
) -> None:
    line, message = FAULTS[fault]
    path = tmp_path / "a.jsonl"
    path.write_bytes(encode(GOOD * 6 + line + GOOD))
    refused(JsonLines(name="x", train=(str(path),)), rf"line 7[:,].*{message}")
    path.write_bytes(encode(GOOD * 8))
    assert texts(JsonLines(name="x", train=(str(path),))) == ["good"] * 8


@pytest.mark.parametrize("fault", ["comma", "blank", "byte", "null text"])
def test_line_number_is_right_in_long_and_compressed_files(tmp_path: Path, fault: str) -> None:
    line, message = FAULTS[fault]
    long = json.dumps({"text": "é\u2028\u0085x" * 500_000}, ensure_ascii=False).encode() + b"\n"
    data = GOOD * 3000 + long + line + GOOD
    for suffix, compress in ((".jsonl", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(compress(data))
        refused(JsonLines(name="x", train=(str(path),)), rf"line 3002[:,].*{message}")


def test_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_bytes(GOOD * 5)
    (tmp_path / "2.jsonl").write_bytes(GOOD + FAULTS["blank"][0])
    refused(JsonLines(name="x", train=(str(tmp_path / "*.jsonl"),)), r"2\.jsonl, line 2: blank")


def test_surrogate_pairs_and_control_characters_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    expected = ["😀", "a\0", "\u2028 \x85 \x1c \r\n", "\ufeff", "<|endoftext|></s>", ""]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in expected))
    assert "\\ud83d\\ude00" in path.read_text()
    assert texts(JsonLines(name="x", train=(str(path),))) == expected


def test_error_in_plain_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\r\ntwo\rthree\nfour \xff\n")
    refused(PlainFiles(name="x", train=(str(path),)), r"a\.txt, line 4: not UTF-8")
    refused(PlainFiles(name="x", train=(str(tmp_path),)), "cannot be read")


def test_error_in_parquet_names_the_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    source = Parquet(name="x", train=(str(path),))
    bad = pyarrow.array([b"good", b"\xffbad", b"ok"]).view(pyarrow.string())
    for column, message in (
        (bad, r"row 1 \(from 0\): 'text' is not UTF-8"),
        (pyarrow.array(["a", "b", None]), r"row 2 \(from 0\): 'text' is null"),
        (pyarrow.array([1, 2]), "'text' contains int64, not text"),
        (pyarrow.array([b"a"]), "'text' contains binary, not text"),
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
    refused(source, r"a\.parquet: not a Parquet file, or damaged")


def test_invalid_text_makes_no_store_and_no_vocabulary(tmp_path: Path) -> None:
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


def test_store_keeps_nul_and_names_of_special_tokens(tmp_path: Path) -> None:
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
        ("[]", "line 2: is a list"),
        (json.dumps({**QUESTION, "context": None}), "line 2: 'context' is null"),
        (json.dumps({**QUESTION, "gold": "1"}), "line 2: 'gold' is a text"),
        (json.dumps({**QUESTION, "gold": True}), "line 2: 'gold' is true or false"),
        (json.dumps({**QUESTION, "gold": 2}), "line 2: 'gold' is 2, but there are 2 choices"),
        (json.dumps({**QUESTION, "gold": -1}), "line 2: 'gold' is -1, but"),
        (json.dumps({**QUESTION, "choices": " yes"}), "line 2: 'choices' is a text"),
        (json.dumps({**QUESTION, "choices": [" yes", 2]}), "line 2: a choice is a number"),
        (json.dumps({"id": "q", "context": "x", "gold": 1}), "line 2: 'choices' is missing"),
        (json.dumps({**QUESTION, "choices": [" \ud83d", " no"]}), "line 2: lone surrogate U.D83D"),
    ],
)
def test_error_in_question_names_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text(f"{json.dumps(QUESTION)}\n{line}\n")
    with pytest.raises(UserError, match=rf"items\.jsonl, {message}"):
        list(gathered_items(path))


def test_question_with_invalid_utf8_is_refused(tmp_path: Path) -> None:
    for context, choice in (("x\udcff", " a"), ("x", " \ud83d")):
        item = Item(id="q7", context=context, choices=(choice, " b"), gold=0)
        with pytest.raises(UserError, match="benchmark toy, question q7: lone surrogate"):
            write_task(tmp_path / "toy", [item], ByteVocabulary(), benchmark="toy")
    assert not list(tmp_path.iterdir())
