"""A task store returns its questions and the bytes of every choice."""

from pathlib import Path

import numpy as np
import pytest

from lossline.corpora.items import Item
from lossline.errors import UserError
from lossline.stores.task_store import TaskStore, write_task
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary

ITEMS = [
    Item(id="a", context="Question: one?\nAnswer:", choices=(" yes", " no"), gold=1),
    Item(id="b", context="Zwei é", choices=(" 語", " b", " longer choice"), gold=0),
    Item(id="c", context="Three", choices=(" x",), gold=0),
]


@pytest.fixture
def task(tmp_path: Path) -> TaskStore:
    return write_task(tmp_path / "task", ITEMS, ByteVocabulary(), benchmark="toy")


def test_task_store_returns_its_questions(task: TaskStore) -> None:
    vocabulary = ByteVocabulary()
    assert (task.benchmark, task.num_questions, task.manifest.kind) == ("toy", 3, "task")
    for index, item in enumerate(ITEMS):
        question = task.question(index)
        assert vocabulary.decode(question.context) == item.context
        assert tuple(map(vocabulary.decode, question.choices)) == item.choices
        assert question.choice_bytes == tuple(len(choice.encode()) for choice in item.choices)
        assert question.gold == item.gold
        assert question.context.dtype == question.choices[0].dtype == np.int32
        assert vocabulary.eos_id not in question.context
    with pytest.raises(IndexError):
        task.question(3)


def test_invalid_questions_are_refused_and_leave_no_files(tmp_path: Path) -> None:
    vocabulary = ByteVocabulary()
    bad = Item(id="q7", context="x", choices=(" a", " b"), gold=2)
    for items, message in (
        ([], "no questions"),
        ([bad], "question q7: gold 2"),
        ([Item(id="e", context="x", choices=("",), gold=0)], "question e: empty text"),
    ):
        with pytest.raises(UserError, match=message):
            write_task(tmp_path / "bad", items, vocabulary, benchmark="bad")
    assert not list(tmp_path.iterdir())


def test_damaged_store_and_wrong_kind_are_refused(task: TaskStore) -> None:
    with pytest.raises(UserError, match="is a task store, not a text store"):
        TokenStore.open(task.location)
    with pytest.raises(UserError, match="made with vocabulary bytes"):
        TaskStore.open(task.location, vocabulary_hash="0" * 64)
    TaskStore.open(task.location, verify=True)
    file = Path(task.location) / "gold" / "c" / "0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        TaskStore.open(task.location)
