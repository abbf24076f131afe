"""A file of a user's own questions becomes a task store; a wrong line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import lossline.prepare as verb
from lossline import vocabularies
from lossline.cli.configuration import run_verb
from lossline.stores.task_store import TaskStore

ASKED = {"question": "Capital of France? ", "choices": ["Paris", " Rome"], "gold": 1}
EXACT = {"context": "def f(x):\n    return", "choices": [" 2 * x", " x"], "gold": 0, "id": "f"}


def prepare(file: Path) -> None:
    bindings = {
        "prepare.stores": "(@store(),)",
        "store.vocabulary": "bytes",
        "store.tasks": "(@questions(),)",
        "questions.name": "quiz",
        "questions.path": str(file),
        "questions.license": "mine",
        "prepare.out": str(file.parent / "stores"),
    }
    argv = [f"--gin.{key}={value}" for key, value in bindings.items()]
    run_verb("prepare", verb.__doc__, verb.load, flags=verb.FLAGS, argv=argv)


def test_questions_become_a_task_store(tmp_path: Path, capsys) -> None:
    file = tmp_path / "quiz.jsonl"
    glued = {"context": "The answer is", "choices": ["yes", "no"], "gold": 0}
    file.write_text("".join(f"{json.dumps(line)}\n" for line in (ASKED, EXACT, glued)))
    prepare(file)
    said = capsys.readouterr()
    assert "1 of 3 questions have a choice that directly follows a letter" in said.err
    store = TaskStore.open(tmp_path / "stores/bytes/tasks/quiz", verify=True)
    text = vocabularies.load("bytes").decode
    asked, exact = store.question(0), store.question(1)
    assert text(asked.context) == "Question: Capital of France?\nAnswer:"
    assert [text(choice) for choice in asked.choices] == [" Paris", " Rome"] and asked.gold == 1
    assert text(exact.context) == EXACT["context"] and exact.gold == 0
    facts = store.manifest
    assert (facts.name, facts.split, facts.license) == ("quiz", "validation", "mine")
    prepare(file)
    assert "0 stores made, 1 already prepared" in capsys.readouterr().out
    file.write_text(json.dumps(ASKED))
    with pytest.raises(SystemExit):
        prepare(file)
    assert "contains another store" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'question': 1}", "line 2, column 2: not JSON"),
        ("", "line 2: blank line"),
        (json.dumps(ASKED | {"context": "x"}), "line 2: has both 'context' and 'question'"),
        (json.dumps({"choices": ["a"], "gold": 0}), "line 2: has no 'question'"),
        (json.dumps({"question": "x", "gold": 0}), "line 2: 'choices' is missing"),
        (json.dumps(ASKED | {"choices": ["a", 2]}), "line 2: a choice is a number"),
        (json.dumps(ASKED | {"choices": ["a", "  "]}), "line 2: a choice is blank"),
        (json.dumps(ASKED | {"choices": []}), "line 2: 'choices' is empty"),
        (json.dumps(ASKED | {"question": ["x"]}), "line 2: 'question' is a list"),
        (json.dumps(ASKED | {"gold": 2}), "line 2: 'gold' is 2, but there are 2 choices"),
        (json.dumps(ASKED | {"gold": "Rome"}), "line 2: 'gold' is a text"),
        (json.dumps(EXACT), "line 2: id 'f' is also that of"),
    ],
)
def test_wrong_line_is_named_before_anything_is_written(tmp_path, capsys, line, said) -> None:
    file = tmp_path / "quiz.jsonl"
    file.write_text(f"{json.dumps(EXACT)}\n{line}\n{json.dumps(ASKED)}\n")
    with pytest.raises(SystemExit) as stop:
        prepare(file)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and f"{file}, {said}" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [file]


def test_missing_and_empty_files_are_refused(tmp_path, capsys) -> None:
    file = tmp_path / "quiz.jsonl"
    for said in (f"questions.path: no file {file}", f"{file}: contains no question"):
        with pytest.raises(SystemExit):
            prepare(file)
        assert said in capsys.readouterr().err
        file.write_text("")
