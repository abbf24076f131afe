"""Task stores: benchmarks tokenized with one vocabulary.

A question has a context and choices. A choice continues the context directly: it starts with its
own space. Context and choices are tokenized separately, so the tokens of a choice have exactly the
bytes of the choice. A question with one choice has a loss, but no accuracy.

lm-eval tokenizes context and choice together and splits at the context's length. This gives the
same tokens if the vocabulary never merges across the space before a word.
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
from lossline.files import building_anew
from lossline.places import to_path
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
        context: int32 [tokens]: ids of the context, without eos.
        choices: int32 [tokens] each: ids of every choice, without eos.
        choice_bytes: UTF-8 bytes of every choice.
        gold: index of the correct choice.
    """

    context: np.ndarray
    choices: tuple[np.ndarray, ...]
    choice_bytes: tuple[int, ...]
    gold: int


class TaskStore:
    """A tokenized benchmark, read-only.

    Texts are stored in this order: context, its choices, next context, its choices, …. Open with
    ``TaskStore.open``; write with ``write_task`` or ``python -m lossline.prepare``.

    Args:
        location: folder or URL.
        manifest: checked manifest.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest

    @classmethod
    def open(
        cls, path: str | Path, *, vocabulary_hash: str | None = None, verify: bool = False
    ) -> TaskStore:
        """Open a task store; see ``TokenStore.open`` for the checks.

        Args:
            path: folder or URL.
            vocabulary_hash: hash of the expected vocabulary; None accepts every vocabulary.
            verify: whether to read all arrays and compare their hashes.

        Raises:
            NoStore: ``path`` contains no store.
            UserError: the store is damaged or changed, or has another vocabulary.
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
        """Name of the benchmark."""
        return self.manifest.name

    @property
    def num_questions(self) -> int:
        """Number of questions."""
        return self.manifest.documents

    @cached_property
    def has_choices(self) -> bool:
        """Whether any question has more than one choice; without, there is no accuracy."""
        return bool((np.diff(self._questions) > 2).any())

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes of each token id; 0 for special tokens."""
        return self._read("token_bytes")

    def question(self, index: int) -> Question:
        """Return question number ``index``, from 0.

        Raises:
            IndexError: no such question.
        """
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
        """Read all arrays and compare their hashes with the manifest.

        Raises:
            UserError: an array is damaged or was changed.
        """
        for name in ARRAYS:
            facts = self.manifest.arrays[name]
            opened = arrays.open_array(f"{self.location.rstrip('/')}/{name}", facts)
            if arrays.content_sha256(opened) != facts.sha256:
                raise UserError(
                    f"{self.location}/{name}: contents were changed. Prepare the store again."
                )

    def _read(self, name: str) -> np.ndarray:
        facts = self.manifest.arrays[name]
        return arrays.read(
            arrays.open_array(f"{self.location.rstrip('/')}/{name}", facts), 0, facts.size
        )

    # A benchmark is small (HellaSwag: 10,042 questions, 4 MB), so each array is read completely on
    # first use.
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
    """Tokenize a benchmark into a task store and open it; atomic, never over another store.

    Args:
        path: folder of the store.
        items: questions in order.
        vocabulary: vocabulary to tokenize with.
        benchmark: name of the benchmark, for the manifest.
        split: split of the benchmark, for the manifest.
        source_task: origin of the questions, for the manifest.
        license: license of the questions, for the manifest.
        job: hash of the request, for the manifest.

    Raises:
        UserError: no questions, an invalid ``gold``, an empty text, a text that is not UTF-8, or
            another store at ``path``.
    """
    path = to_path(path)
    questions = list(items)
    _check_items(questions, benchmark)
    texts = [text for item in questions for text in (item.context, *item.choices)]
    encoded = tokenize(texts, vocabulary)
    is_text = np.ones(encoded.ids.size, bool)
    is_text[np.cumsum(encoded.lengths) - 1] = False  # the eos of each text
    lengths = np.cumsum([1 + len(item.choices) for item in questions])
    values = {
        "tokens": encoded.ids[is_text].astype(id_dtype(vocabulary)),
        "offsets": np.concatenate([[0], np.cumsum(encoded.lengths - 1)]).astype(np.int64),
        "questions": np.concatenate([[0], lengths]).astype(np.int64),
        "text_bytes": encoded.bytes,
        "gold": np.array([item.gold for item in questions], np.int32),
        "token_bytes": vocabulary.token_bytes,
    }
    with building_anew(path) as partial:
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
        raise UserError(f"benchmark {benchmark}: no questions. Check its source.")
    for item in items:
        for text in (item.context, *item.choices):
            utf8.require(text, f"benchmark {benchmark}, question {item.id}")
        if not 0 <= item.gold < len(item.choices):
            raise UserError(
                f"benchmark {benchmark}, question {item.id}: gold {item.gold} is not the index of "
                f"one of its {len(item.choices)} choices. Fix or remove the question."
            )
        if not all(item.choices) or not item.context:
            raise UserError(
                f"benchmark {benchmark}, question {item.id}: empty text. Remove the question."
            )
