"""Trains vocabularies that keep every text exactly: byte-level BPE and SentencePiece."""

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
SENTENCEPIECE_UNKNOWN = "\u2585"  # its trainer's mark of an unknown character
LONGEST_WORD = 10_000  # characters of a word that byte-level BPE is trained on


class Algorithm(enum.Enum):
    """How a vocabulary is learned."""

    BPE = "bpe"  # byte-level, by the tokenizers library -> tokenizer.json
    UNIGRAM = "unigram"  # SentencePiece with byte fallback -> spiece.model
    SENTENCEPIECE_BPE = "sentencepiece_bpe"


def train(texts: Iterable[str], algorithm: Algorithm, vocab_size: int, *, name: str) -> bytes:
    """The file of a vocabulary learned from texts: ``tokenizer.json`` or a SentencePiece model.

    Args:
        name: of the vocabulary, for messages.

    Raises:
        UserError: too little text for the size, or sentencepiece is not installed.
    """
    if algorithm is Algorithm.BPE:
        return train_bpe(texts, vocab_size)
    return train_sentencepiece(texts, vocab_size, algorithm=algorithm, name=name)


def train_bpe(texts: Iterable[str], vocab_size: int) -> bytes:
    """Byte-level BPE with GPT-2's cut into words, as a ``tokenizer.json``.

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
    tokenizer.train_from_iterator(_long_words_cut(texts), trainer=trainer)
    return tokenizer.to_str(pretty=False).encode()


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, *, algorithm: Algorithm, name: str
) -> bytes:
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
        raise UserError(f"vocabulary {name}: its sets hold no text; give some")
    model = _sentencepiece_model(lines, vocab_size, algorithm, name)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    if processor.piece_to_id(METASPACE) == processor.unk_id():
        # Text (almost) without spaces leaves the space out, and what stands for it has no bytes.
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
            f"vocabulary {name}: SentencePiece refuses ({_reason(error)}); change vocab_size "
            "or give more text"
        ) from error
    return model.getvalue()


def _reason(error: Exception) -> str:
    """What SentencePiece says, without its own place and without options that are none here."""
    said = re.sub(r"^.*\] (?=.)", "", str(error), flags=re.DOTALL)
    return said.split(" Increase vocab_size")[0].strip()[:160]


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
