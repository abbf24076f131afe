"""Train lossless vocabularies: byte-level BPE and SentencePiece."""

from __future__ import annotations

import enum
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.vocabularies.vocabulary import METASPACE

EOS, PAD = "<|endoftext|>", "<|padding|>"
SENTENCEPIECE_UNKNOWN = "\u2585"  # SentencePiece's trainer reserves it for unknown characters
LONGEST_WORD = 10_000  # characters; byte-level BPE training splits longer words


class Algorithm(enum.Enum):
    """Training algorithm of a vocabulary."""

    BPE = "bpe"  # byte-level BPE (tokenizers library), writes tokenizer.json
    UNIGRAM = "unigram"  # SentencePiece Unigram with byte fallback, writes spiece.model
    SENTENCEPIECE_BPE = "sentencepiece_bpe"  # SentencePiece BPE with byte fallback


def train(texts: Iterable[str], algorithm: Algorithm, vocab_size: int, *, name: str) -> bytes:
    """Train a vocabulary and return the bytes of its file.

    Args:
        texts: training documents.
        algorithm: training algorithm.
        vocab_size: number of ids, special tokens and bytes included.
        name: name of the vocabulary, for error messages.

    Returns:
        Contents of a ``tokenizer.json`` (``Algorithm.BPE``) or of a SentencePiece model.

    Raises:
        UserError: too little text for ``vocab_size``, or sentencepiece is not installed.
    """
    if algorithm is Algorithm.BPE:
        return train_bpe(texts, vocab_size)
    return train_sentencepiece(texts, vocab_size, algorithm=algorithm, name=name)


def train_bpe(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train byte-level BPE with GPT-2's word splitting; return the ``tokenizer.json``.

    Source: Sennrich et al., ACL 2016; Radford et al., 2019 (bytes as the alphabet).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_split_long_words(texts), trainer=trainer)
    return tokenizer.to_str(pretty=False).encode()


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, *, algorithm: Algorithm, name: str
) -> bytes:
    """Train SentencePiece without normalization and with byte fallback; return the model.

    Source: Kudo, ACL 2018 (Unigram); Kudo & Richardson, EMNLP 2018.

    Raises:
        UserError: no text, too little text for ``vocab_size``, or sentencepiece is not installed.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(
            f"SentencePiece vocabularies need the package sentencepiece; {install_extra('data')}"
        ) from error
    lines = list(_lines(texts))
    if not lines:
        raise UserError(f"vocabulary {name}: its sets contain no text. Give sets with text.")
    model = _sentencepiece_model(lines, vocab_size, algorithm, name)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    if processor.piece_to_id(METASPACE) == processor.unk_id():
        # Training text with (almost) no spaces gives a model without a piece for the space, and
        # SentencePiece has no byte fallback for it. Train again with the space required.
        model = _sentencepiece_model(lines, vocab_size, algorithm, name, required_chars=METASPACE)
    return model


def _sentencepiece_model(
    lines: Sequence[str], vocab_size: int, algorithm: Algorithm, name: str, **options: Any
) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=vocab_size,
            model_type="unigram" if algorithm is Algorithm.UNIGRAM else "bpe",
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=False,
            character_coverage=0.9999,
            # SentencePiece trains on single lines, so it never learns pieces for tab and newline.
            user_defined_symbols=["\n", "\t"],
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece=PAD,
            eos_piece=EOS,
            num_threads=1,  # scores are sums over threads: several threads would not be repeatable
            minloglevel=2,
            **options,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"vocabulary {name}: SentencePiece cannot train it ({_reason(error)}). Change "
            "vocab_size or give more text."
        ) from error
    return model.getvalue()


def _reason(error: Exception) -> str:
    """Return SentencePiece's message without its source location and without its own advice."""
    message = re.sub(r"^.*\] (?=.)", "", str(error), flags=re.DOTALL)
    return message.split(" Increase vocab_size")[0].strip()[:160]


def _split_long_words(texts: Iterable[str]) -> Iterator[str]:
    """Split words longer than ``LONGEST_WORD``.

    The training time of BPE grows with the square of the word length.
    """
    for text in texts:
        start = 0
        for word in re.finditer(r"\S+|\s+", text) if len(text) > LONGEST_WORD else ():
            for stop in range(word.start() + LONGEST_WORD, word.end(), LONGEST_WORD):
                yield text[start:stop]
                start = stop
        yield text[start:]


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Split texts into lines of at most 1,000 characters.

    SentencePiece skips lines longer than 4,192 bytes and lines that contain U+2585, so the text is
    also split at U+2585.
    """
    for text in texts:
        for line in re.split(f"[\n{SENTENCEPIECE_UNKNOWN}]", text):
            for start in range(0, len(line), 1000):
                piece = line[start : start + 1000]
                if piece.strip():
                    yield piece
