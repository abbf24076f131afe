"""Multiple-choice benchmarks, tokenized with one vocabulary. Read-only but for ``write``; no
TensorFlow.

A question is a context and its choices; a choice continues the context as it stands (it begins with
its own space). Context and choices are tokenized apart, so the bytes of a choice are exactly its
text's. (lm-eval tokenizes both together and cuts at the context's length; with a vocabulary that
never merges across a word's leading space that gives the same tokens.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lossline.corpora import utf8
from lossline.corpora.items import Item
from lossline.errors import UserError
from lossline.files import building
from lossline.stores import arrays, manifests
from lossline.stores.manifests import Manifest
from lossline.stores.store_writer import id_dtype, publish
from lossline.stores.token_store import check_arrays
from lossline.stores.tokenization import tokenize
from lossline.vocabularies import Vocabulary

ARRAYS = ("tokens", "offsets", "questions", "text_bytes", "gold", "token_bytes")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question as tokens.

    Attributes:
        context: int32 ids, without any eos.
        choices: int32 ids of each choice, without any eos.
        choice_bytes: UTF-8 bytes of each choice.
        gold: index of the right choice.
    """

    context: np.ndarray
    choices: tuple[np.ndarray, ...]
    choice_bytes: tuple[int, ...]
    gold: int


class TaskStore:
    """A tokenized benchmark. Texts lie one after the other: context, choices, next context, …"""

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest

    @classmethod
    def open(
        cls, path: str | Path, *, vocabulary_hash: str | None = None, verify: bool = False
    ) -> TaskStore:
        """Opens a store at a folder or a URL; checks as ``TokenStore.open`` does.

        Raises:
            UserError: no store, a damaged or changed one, or one of another vocabulary.
        """
        location = str(path)
        manifest = manifests.read(location, kind="task")
        manifests.check_vocabulary(location, manifest, vocabulary_hash)
        check_arrays(location, manifest, ARRAYS)
        store = cls(location, manifest)
        if verify:
            store.verify()
        return store

    @property
    def benchmark(self) -> str:
        return self.manifest.name

    @property
    def num_questions(self) -> int:
        return self.manifest.documents

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes that each token id stands for; 0 for specials."""
        return self._read("token_bytes")

    def question(self, index: int) -> Question:
        """The ``index``-th question."""
        if not 0 <= index < self.num_questions:
            raise IndexError(f"question {index} of {self.num_questions}")
        first, last = self._questions[index], self._questions[index + 1]
        ids = [self._tokens[self._offsets[i] : self._offsets[i + 1]] for i in range(first, last)]
        return Question(
            context=ids[0],
            choices=tuple(ids[1:]),
            choice_bytes=tuple(int(size) for size in self._text_bytes[first + 1 : last]),
            gold=int(self._gold[index]),
        )

    def verify(self) -> None:
        """Reads everything and compares it with the manifest.

        Raises:
            UserError: an array does not hold what was written.
        """
        for name in ARRAYS:
            facts = self.manifest.arrays[name]
            opened = arrays.open_array(f"{self.location.rstrip('/')}/{name}", facts)
            if arrays.content_sha256(opened) != facts.sha256:
                raise UserError(f"{self.location}/{name}: contents were changed; prepare it again")

    def _read(self, name: str) -> np.ndarray:
        facts = self.manifest.arrays[name]
        return arrays.read(
            arrays.open_array(f"{self.location.rstrip('/')}/{name}", facts), 0, facts.size
        )

    # A benchmark is small (HellaSwag: 10,042 questions, 4 MB), so it is read whole at its first
    # use.
    @cached_property
    def _tokens(self) -> np.ndarray:
        return self._read("tokens").astype(np.int32)

    @cached_property
    def _offsets(self) -> np.ndarray:
        return self._read("offsets")

    @cached_property
    def _questions(self) -> np.ndarray:
        return self._read("questions")

    @cached_property
    def _text_bytes(self) -> np.ndarray:
        return self._read("text_bytes")

    @cached_property
    def _gold(self) -> np.ndarray:
        return self._read("gold")


def write_task(
    path: str | Path,
    items: Iterable[Item],
    vocabulary: Vocabulary,
    *,
    benchmark: str,
    split: str = "validation",
    source_task: str = "items",
    license: str = "",
    job: str = "",
) -> TaskStore:
    """Tokenizes a benchmark into a store and opens it; atomic, and never over another store.

    Raises:
        UserError: no questions, a gold index outside the choices, an empty choice, text that is no
            UTF-8, another store.
    """
    path = Path(path)
    questions = list(items)
    _check_items(questions, benchmark)
    texts = [text for item in questions for text in (item.context, *item.choices)]
    encoded = tokenize(texts, vocabulary)
    is_text = np.ones(encoded.ids.size, bool)
    is_text[np.cumsum(encoded.lengths) - 1] = False  # each text's eos
    lengths = np.cumsum([1 + len(item.choices) for item in questions])
    values = {
        "tokens": encoded.ids[is_text].astype(id_dtype(vocabulary)),
        "offsets": np.concatenate([[0], np.cumsum(encoded.lengths - 1)]).astype(np.int64),
        "questions": np.concatenate([[0], lengths]).astype(np.int64),
        "text_bytes": encoded.bytes,
        "gold": np.array([item.gold for item in questions], np.int32),
        "token_bytes": vocabulary.token_bytes,
    }
    with building(path) as partial:
        facts = {
            name: arrays.write(partial / name, [array], dtype=array.dtype.name, size=array.size)
            for name, array in values.items()
        }
        manifest = Manifest(
            kind="task",
            fingerprint=manifests.fingerprint(facts, vocabulary.facts),
            name=benchmark,
            split=split,
            source_task=source_task,
            license=license,
            vocabulary=vocabulary.facts,
            documents=len(questions),
            tokens=int(values["tokens"].size),
            bytes=int(encoded.bytes.sum()),
            dtype=id_dtype(vocabulary),
            job=job,
            arrays=facts,
        )
        publish(partial, path, manifest)
    return TaskStore.open(path)


def _check_items(items: list[Item], benchmark: str) -> None:
    if not items:
        raise UserError(f"benchmark {benchmark}: no questions; check its source")
    for item in items:
        for text in (item.context, *item.choices):
            utf8.require(text, f"benchmark {benchmark}, question {item.id}")
        if not 0 <= item.gold < len(item.choices):
            raise UserError(
                f"benchmark {benchmark}, question {item.id}: gold {item.gold} is none of its "
                f"{len(item.choices)} choices; repair or leave out the question"
            )
        if not all(item.choices) or not item.context:
            raise UserError(
                f"benchmark {benchmark}, question {item.id}: empty text; leave out the question"
            )
