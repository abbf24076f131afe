"""Find the vocabulary of a run by the hash that the run recorded.

Looked through are: the byte vocabulary; the run directory; and ``vocabularies/<name>/``, where
``lossline.prepare`` keeps trained vocabularies, in the folders above the stores that the run's
``config.gin`` names and in ``data`` of the working folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lossline import vocabularies
from lossline.errors import UserError
from lossline.runs.run_directory import RunDirectory
from lossline.vocabularies import (
    HuggingFace,
    Normalization,
    SentencePiece,
    Vocabulary,
    VocabularySpec,
)

_FILES = ("tokenizer.json", "spiece.model")
_DEFAULT_ROOT = Path("data")
_ABOVE_A_STORE = 4  # folders: <root>/stores/<vocabulary>/<set>/<split>


def run_vocabulary(run: RunDirectory, given: VocabularySpec | str | None = None) -> Vocabulary:
    """Return the vocabulary of a run.

    Args:
        run: run directory.
        given: the vocabulary, where it is known: "bytes", a .model or .json file, or a
            specification. None: search.

    Raises:
        UserError: the given vocabulary is not the run's, or none was found.
    """
    facts = run.facts
    wanted, name = str(facts["vocabulary_hash"]), str(facts["tokenizer"])
    if given is not None:
        specs = [given] if not isinstance(given, str) else list(_both_ways(given))
        for spec in specs:
            if (found := _loaded(spec)) is not None and found.hash == wanted:
                return found
        vocabulary = vocabularies.load(given)  # says what is wrong with a file
        raise UserError(
            f"run {run.path} was trained with vocabulary {name} ({wanted[:8]}), not with "
            f"{vocabulary.name} ({vocabulary.hash[:8]}). Give the run's vocabulary."
        )
    if (known := _found(run)) is not None:
        return known[1]
    searched = list(_folders(run))
    files = [file for folder in searched for file in _files_in(folder)]
    unreadable = [str(file) for file in files if all(map(_is_broken, _both_ways(str(file))))]
    raise UserError(
        f"the vocabulary of run {run.path}, {name} ({wanted[:8]}), is not among the "
        f"{len(files)} vocabularies in {', '.join(map(str, searched))}"
        + (f" (damaged: {', '.join(unreadable)})" if unreadable else "")
        + ". Name it: --vocabulary=FILE (tokenizer.json or a .model file)."
    )


def found_specification(run: RunDirectory) -> VocabularySpec | None:
    """Return the specification of a run's vocabulary; None if it is not found.

    Raises:
        UserError: the facts of the run are damaged.
    """
    known = _found(run)
    return None if known is None else known[0]


def _found(run: RunDirectory) -> tuple[VocabularySpec, Vocabulary] | None:
    """Search for the vocabulary of a run."""
    facts = run.facts
    wanted, name = str(facts["vocabulary_hash"]), str(facts["tokenizer"])
    if (plain := vocabularies.load("bytes")).hash == wanted:
        return vocabularies.spec_for("bytes"), plain
    files = [file for folder in _folders(run) for file in _files_in(folder)]
    for file in sorted(files, key=lambda file: file.parent.name != name):  # the likely ones first
        for spec in _both_ways(str(file)):
            if (found := _loaded(spec)) is not None and found.hash == wanted:
                return spec, found
    return None


def _folders(run: RunDirectory) -> Iterator[Path]:
    """Yield the folders that may hold the vocabulary."""
    yield run.path
    roots = [_DEFAULT_ROOT]
    config = run.path / "config.gin"
    if config.is_file():
        quoted = re.findall(r"'([^'\n]+)'", config.read_text(encoding="utf-8"))
        paths = [Path(text) for text in quoted if "/" in text and "://" not in text]
        roots += [above for path in paths for above in list(path.parents)[:_ABOVE_A_STORE]]
    for root in dict.fromkeys(roots):
        if (root / "vocabularies").is_dir():
            yield root / "vocabularies"


def _files_in(folder: Path) -> list[Path]:
    """Return the vocabulary files of a folder and of its folders."""
    return [file for name in _FILES for file in (*folder.glob(name), *folder.glob(f"*/{name}"))]


def _both_ways(path: str) -> Iterator[VocabularySpec]:
    """Yield the specifications of a file: as it is, and without the steps that change text."""
    spec = vocabularies.spec_for(path)
    yield spec
    if isinstance(spec, HuggingFace):
        yield HuggingFace(path=path, normalization=Normalization.DROP)
    elif isinstance(spec, SentencePiece):
        yield SentencePiece(path=path, normalization=Normalization.DROP)


def _is_broken(spec: VocabularySpec) -> bool:
    return _loaded(spec) is None


def _loaded(spec: VocabularySpec) -> Vocabulary | None:
    try:
        return vocabularies.load(spec)
    except UserError:
        return None
