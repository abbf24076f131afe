"""Train lossless vocabularies on the training splits of sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lossline import vocabularies
from lossline.corpora import sources
from lossline.corpora.gathering import PROVENANCE, file_sha256, job_hash, read_provenance
from lossline.corpora.sources import FileSource, JsonLines, Parquet, PlainFiles, Subset
from lossline.errors import UserError
from lossline.files import building_anew, is_published, publish, write_json
from lossline.vocabularies.training import Algorithm, train

RECIPE = 1  # increase when the same text gives a different vocabulary


@dataclass(frozen=True, kw_only=True)
class TrainVocabulary:
    """Gin component: a vocabulary to train.

    Attributes:
        name: name of the vocabulary and of its folder.
        algorithm: "bpe", "unigram" or "sentencepiece_bpe".
        vocab_size: number of ids, special tokens and bytes included; at least 259.
        sets: names of gathered corpora, or files (``@jsonl()``, ``@parquet()``, ``@files()``).
        max_megabytes: maximum text per set, in 10^6 bytes; documents with the smallest content
            hashes are used. 0: no limit.
    """

    name: str
    algorithm: Algorithm
    vocab_size: int
    sets: tuple[str | JsonLines | Parquet | PlainFiles, ...]
    max_megabytes: float = 10.0


def train_vocabulary(spec: TrainVocabulary, root: Path) -> tuple[Path, dict[str, Any]]:
    """Train ``<root>/vocabularies/<name>/{tokenizer.json,spiece.model}`` if it does not exist.

    Args:
        spec: vocabulary to train.
        root: data root.

    Returns:
        The path of the file, and its provenance.

    Raises:
        UserError: the folder contains another vocabulary or none, a set is missing, or the text
            is too short for ``vocab_size``.
    """
    if not spec.sets:
        raise UserError(f"vocabulary {spec.name}: no sets to train on. Bind vocabulary.sets.")
    if spec.vocab_size < 256 + 3:
        raise UserError(
            f"vocabulary {spec.name}: vocab_size {spec.vocab_size} is too small for all bytes. "
            "Give at least 259."
        )
    chosen = [sources.gathered(root, s) if isinstance(s, str) else s for s in spec.sets]
    texts_hash = [[source.name, sources.identity(source, "train")] for source in chosen]
    algorithm = spec.algorithm.value
    job = job_hash("vocabulary", RECIPE, algorithm, spec.vocab_size, spec.max_megabytes, texts_hash)
    folder = root / "vocabularies" / spec.name
    file = "tokenizer.json" if spec.algorithm is Algorithm.BPE else "spiece.model"
    if is_published(folder, mark=PROVENANCE):
        return folder / file, _present(folder, file, job)
    with building_anew(folder) as partial:
        subset = Subset(max_megabytes=spec.max_megabytes)
        texts = chain.from_iterable(subset.apply(_train_split(source)) for source in chosen)
        (partial / file).write_bytes(train(texts, spec.algorithm, spec.vocab_size, name=spec.name))
        facts = vocabularies.load(str(partial / file)).facts
        if facts.vocab_size < spec.vocab_size:  # BPE stops when no pair is left to merge
            raise UserError(
                f"vocabulary {spec.name}: the text gives at most {facts.vocab_size} ids, not "
                f"{spec.vocab_size}. Lower vocab_size or give more text."
            )
        provenance = {
            "job": job,
            "name": spec.name,
            "algorithm": algorithm,
            "trained_on": [source.name for source in chosen],
            "max_megabytes_of_each": spec.max_megabytes,
            "vocab_size": facts.vocab_size,
            "hash": facts.hash,
            "sha256": file_sha256(partial / file),
        }
        write_json(partial / PROVENANCE, provenance)
        publish(partial, folder, mark=PROVENANCE)
    return folder / file, provenance


def _train_split(source: FileSource) -> Iterator[str]:
    return sources.documents(source, "train")


def _present(folder: Path, file: str, job: str) -> dict[str, Any]:
    if not (folder / PROVENANCE).is_file():
        raise UserError(
            f"{folder}: contains no vocabulary that lossline has trained. Delete the folder, or "
            "choose another name."
        )
    provenance = read_provenance(folder)
    path = folder / file
    whole = path.is_file() and file_sha256(path) == provenance.get("sha256")
    if provenance.get("job") != job or not whole:
        raise UserError(
            f"{folder}: contains another vocabulary (other text, size or algorithm). Choose "
            "another name or delete it."
        )
    return provenance
