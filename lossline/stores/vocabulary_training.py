"""Trains vocabularies that keep every text exactly, on the training splits of sets."""

from __future__ import annotations

import enum
import io
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lossline.corpora import sources
from lossline.corpora.gathering import (
    PROVENANCE,
    file_sha256,
    job_hash,
    read_provenance,
    write_json,
)
from lossline.corpora.sources import FileSource, JsonLines, Parquet, PlainFiles, Subset
from lossline.errors import UserError
from lossline.files import building
from lossline.installing import install_extra
from lossline.vocabularies import vocabulary as vocabularies
from lossline.vocabularies.vocabulary import METASPACE

EOS, PAD = "<|endoftext|>", "<|padding|>"
SENTENCEPIECE_UNKNOWN = "\u2585"  # its trainer's mark of an unknown character
LONGEST_WORD = 10_000  # characters of a word that byte-level BPE is trained on
RECIPE = 1  # raised whenever the same text gives another vocabulary


class Algorithm(enum.Enum):
    """How a vocabulary is learned."""

    BPE = "bpe"  # byte-level, by the tokenizers library -> tokenizer.json
    UNIGRAM = "unigram"  # SentencePiece with byte fallback -> spiece.model
    SENTENCEPIECE_BPE = "sentencepiece_bpe"


@dataclass(frozen=True, kw_only=True)
class TrainVocabulary:
    """Gin component: a vocabulary to train.

    Attributes:
        name: of the vocabulary and its folder.
        algorithm: "bpe", "unigram" or "sentencepiece_bpe".
        vocab_size: ids in all, specials and bytes included.
        sets: gathered corpora, or files (``@jsonl()``, ``@parquet()``, ``@files()``).
        max_megabytes: text taken of each set at most, by content hash.
    """

    name: str
    algorithm: Algorithm
    vocab_size: int
    sets: tuple[str | JsonLines | Parquet | PlainFiles, ...]
    max_megabytes: float = 10.0


def train_vocabulary(spec: TrainVocabulary, root: Path) -> tuple[Path, dict[str, Any], bool]:
    """Trains ``<root>/vocabularies/<name>/{tokenizer.json,spiece.model}`` unless it is there.

    Returns:
        The file, its provenance, and whether it was trained now.

    Raises:
        UserError: another vocabulary is there; a set is missing; too little text for the size.
    """
    if not spec.sets:
        raise UserError(f"vocabulary {spec.name}: trained on no set; bind vocabulary.sets")
    if spec.vocab_size < 256 + 3:
        raise UserError(
            f"vocabulary {spec.name}: vocab_size {spec.vocab_size} holds not all bytes; give 259+"
        )
    chosen = [sources.gathered(root, s) if isinstance(s, str) else s for s in spec.sets]
    texts_hash = [[source.name, sources.identity(source, "train")] for source in chosen]
    algorithm = spec.algorithm.value
    job = job_hash("vocabulary", RECIPE, algorithm, spec.vocab_size, spec.max_megabytes, texts_hash)
    folder = root / "vocabularies" / spec.name
    file = "tokenizer.json" if spec.algorithm is Algorithm.BPE else "spiece.model"
    if folder.exists():
        return folder / file, _present(folder, file, job), False
    with building(folder) as partial, _nothing_left(partial):
        subset = Subset(max_megabytes=spec.max_megabytes)
        texts = chain.from_iterable(subset.apply(_train_split(source)) for source in chosen)
        train = train_bpe if spec.algorithm is Algorithm.BPE else train_sentencepiece
        (partial / file).write_bytes(train(texts, spec))
        facts = vocabularies.load(str(partial / file)).facts
        if facts.vocab_size < spec.vocab_size:  # BPE stops where no two tokens are left to merge
            raise UserError(
                f"vocabulary {spec.name}: the text gives {facts.vocab_size} ids at most, not "
                f"{spec.vocab_size}; lower vocab_size or give more text"
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
        partial.replace(folder)
    return folder / file, provenance, True


@contextmanager
def _nothing_left(partial: Path) -> Iterator[None]:
    """Removes what was written where a person's mistake came up."""
    try:
        yield
    except UserError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def train_bpe(texts: Iterable[str], spec: TrainVocabulary) -> bytes:
    """Byte-level BPE with GPT-2's cut into words, as a ``tokenizer.json``.

    Source: Sennrich et al., ACL 2016; Radford et al., 2019 (bytes as the alphabet).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_long_words_cut(texts), trainer=trainer)
    return tokenizer.to_str(pretty=False).encode()


def train_sentencepiece(texts: Iterable[str], spec: TrainVocabulary) -> bytes:
    """A SentencePiece model that leaves text as it is; characters it lacks become bytes.

    Source: Kudo, ACL 2018 (unigram); Kudo & Richardson, EMNLP 2018.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"SentencePiece vocabularies need the package sentencepiece; {install_extra('data')}"
        ) from error
    lines = list(_lines(texts))
    if not lines:
        raise UserError(f"vocabulary {spec.name}: its sets hold no text; give some")
    model = _sentencepiece_model(lines, spec)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    if processor.piece_to_id(METASPACE) == processor.unk_id():
        # Text (almost) without spaces leaves the space out, and what stands for it has no bytes.
        model = _sentencepiece_model(lines, spec, required_chars=METASPACE)
    return model


def _sentencepiece_model(lines: Sequence[str], spec: TrainVocabulary, **options: Any) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=spec.vocab_size,
            model_type="unigram" if spec.algorithm is Algorithm.UNIGRAM else "bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=False,
            character_coverage=0.9999,
            # U+0009 and U+000A stay pieces of their own: training text comes line by line.
            user_defined_symbols=["\n", "\t"],
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece=PAD,
            eos_piece=EOS,
            num_threads=1,  # the pieces' scores are sums over threads: one thread, one result
            minloglevel=2,
            **options,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"vocabulary {spec.name}: SentencePiece refuses ({_reason(error)}); change vocab_size "
            "or give more text"
        ) from error
    return model.getvalue()


def _reason(error: Exception) -> str:
    """What SentencePiece says, without its own place and without options that are none here."""
    said = re.sub(r"^.*\] (?=.)", "", str(error), flags=re.DOTALL)
    return said.split(" Increase vocab_size")[0].strip()[:160]


def _train_split(source: FileSource) -> Iterator[str]:
    return sources.documents(source, "train")


def _long_words_cut(texts: Iterable[str]) -> Iterator[str]:
    """Cuts within words beyond ``LONGEST_WORD``: the time to train is the square of a word."""
    for text in texts:
        start = 0
        for word in re.finditer(r"\S+|\s+", text) if len(text) > LONGEST_WORD else ():
            for stop in range(word.start() + LONGEST_WORD, word.end(), LONGEST_WORD):
                yield text[start:stop]
                start = stop
        yield text[start:]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines of at most 1,000 characters, cut where SentencePiece would skip all of a line.

    It skips "sentences" of more than 4,192 bytes, and those that hold its own U+2585.
    """
    for text in texts:
        for line in re.split(f"[\n{SENTENCEPIECE_UNKNOWN}]", text):
            for start in range(0, len(line), 1000):
                piece = line[start : start + 1000]
                if piece.strip():
                    yield piece


def _present(folder: Path, file: str, job: str) -> dict[str, Any]:
    provenance = read_provenance(folder)
    path = folder / file
    whole = path.is_file() and file_sha256(path) == provenance.get("sha256")
    if provenance.get("job") != job or not whole:
        raise UserError(
            f"{folder}: holds another vocabulary (other text, size or algorithm); choose another "
            "name or delete it"
        )
    return provenance
