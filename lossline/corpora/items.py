"""Benchmark questions as text, gathered or in a file of the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossline.corpora import utf8
from lossline.corpora.json_lines import kind_of, read_objects
from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question as text; ``context + choices[gold]`` is the context with its correct answer.

    Attributes:
        id: unique within the benchmark.
        context: text before each choice.
        choices: text of each choice, with the separating space at its start.
        gold: index of the correct choice.
    """

    id: str
    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Gin component ``questions``: a benchmark of your own, a file of JSON lines.

    A line is an object with ``choices``, a list of texts, ``gold``, the index of the correct one
    from 0, and either

    - ``question``: the model reads "Question: … Answer:" on two lines, then a space and the choice,
      as in lm-evaluation-harness;
    - or ``context``: the exact text before each choice; a choice starts with its own space.

    ``id`` is optional. A line with one choice has a loss, but no accuracy. Other keys are ignored.

    Attributes:
        name: name of the benchmark; recorded as ``eval_set``, and the store's folder.
        path: the file, plain or compressed (.gz, .zst, .bz2).
        split: split of the benchmark, for the manifest.
        license: license of the questions, for the manifest.
    """

    name: str
    path: str
    split: str = "validation"
    license: str = ""

    def items(self) -> list[Item]:
        """Return all questions of the file.

        Raises:
            UserError: the file does not exist or is empty, a line is not a valid question, or an id
                occurs twice. The message names file and line.
        """
        path = Path(self.path)
        if not path.is_file():
            raise UserError(f"questions.path: no file {path}. Give the path of an existing file.")
        found: dict[str, str] = {}
        items = []
        for where, record in read_objects(path):
            item = _item(_as_context(record, where), where)
            for text in item.choices:
                if not text.strip():
                    raise UserError(f"{where}: a choice is blank. Fix the line.")
            if item.id in found:
                raise UserError(
                    f"{where}: id {item.id!r} is also that of {found[item.id]}. Change one."
                )
            found[item.id] = where
            items.append(item)
        if not items:
            raise UserError(f"{path}: contains no question. Write one JSON object per line.")
        return items


def glued(items: list[Item]) -> list[Item]:
    """Return the questions with a choice that directly follows a letter of its context."""
    return [
        item
        for item in items
        if item.context[-1:].isalnum() and any(text[:1].isalnum() for text in item.choices)
    ]


def _as_context(record: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a record with a context: its own, or the prompt of its question."""
    if ("context" in record) == ("question" in record):
        both = "both 'context' and 'question'" if "context" in record else "no 'question'"
        raise UserError(f"{where}: has {both}. Give 'question', or the exact 'context'.")
    if "context" in record:
        return record
    question = _entry(record, "question", str, where)
    choices = _entry(record, "choices", list, where)
    return record | {
        "context": f"Question: {question.strip()}\nAnswer:",
        "choices": [f" {text.strip()}" if isinstance(text, str) else text for text in choices],
    }


def gathered_items(path: Path) -> Iterator[Item]:
    """Yield the questions of a gathered ``items.jsonl``.

    Raises:
        UserError: a line is not a valid question.
    """
    for where, record in read_objects(path):
        yield _item(record, where)


def _item(record: dict[str, Any], where: str) -> Item:
    item = Item(
        id=str(record.get("id", where)),
        context=_entry(record, "context", str, where),
        choices=tuple(_entry(record, "choices", list, where)),
        gold=_entry(record, "gold", int, where),
    )
    for text in (item.context, *item.choices):
        if not isinstance(text, str):
            raise UserError(f"{where}: a choice is {kind_of(text)}, not text. Fix the line.")
        utf8.require(text, where)
    if not item.choices:
        raise UserError(
            f"{where}: 'choices' is empty. Fix the line; gather again if lossline gathered it."
        )
    if not 0 <= item.gold < len(item.choices):
        raise UserError(
            f"{where}: 'gold' is {item.gold}, but there are {len(item.choices)} choices, "
            "counted from 0. Fix the line; gather again if lossline gathered it."
        )
    return item


_KINDS = {str: "text", list: "a list of texts", int: "the number of a choice, counted from 0"}


def _entry(record: dict[str, Any], name: str, kind: type, where: str) -> Any:
    if type(record.get(name)) is not kind:
        found = kind_of(record[name]) if name in record else "missing"
        raise UserError(
            f"{where}: {name!r} is {found}, not {_KINDS[kind]}. Fix the line; gather again if "
            "lossline gathered it."
        )
    return record[name]
