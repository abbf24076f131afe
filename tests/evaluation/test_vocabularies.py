"""Bits per byte are comparable between vocabularies: one text, tokenized in three ways."""

import io
import math

import numpy as np
import pytest

from lossline.evaluation.documents import Layout
from lossline.evaluation.measures import AnswerLoss, DocumentLoss
from lossline.evaluation.windows import LongDocuments, WindowRule
from lossline.stores.store_writer import write_store
from lossline.stores.task_store import write_task
from lossline.vocabularies import ByteVocabulary, HuggingFace, SentencePiece, load

from .small_runs import ITEMS, TEXTS

# Counted by hand: "Ein Satz." 9; é 2 + 語 3 + 😀 4 + space 1 = 10, nine times; "x" 1;
# "a longer document, " 19, five times; "last words" 10.
BYTES = [9, 90, 1, 95, 10]
SLIDE = WindowRule(context=16, stride=8)
TRUNCATE = WindowRule(context=4, stride=4, long_documents=LongDocuments.TRUNCATE)


def byte_bpe(folder):
    """Byte-level BPE that splits characters outside ASCII into bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.save(str(folder / "bpe.json"))
    return load(HuggingFace(path=str(folder / "bpe.json")))


def unigram(folder):
    """SentencePiece unigram with byte fallback."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        model_type="unigram",
        vocab_size=290,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "unigram.model").write_bytes(model.getvalue())
    return load(SentencePiece(path=str(folder / "unigram.model")))


@pytest.fixture(scope="module", params=["bytes", "bpe", "unigram"])
def vocabulary(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    made = {"bytes": lambda _: ByteVocabulary(), "bpe": byte_bpe, "unigram": unigram}
    return made[request.param](folder)


def test_bits_per_byte_divides_by_the_bytes_of_the_text(vocabulary, tmp_path):
    store = write_store(tmp_path / "store", TEXTS, vocabulary, name="five texts")
    measure = DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=2))
    tokens = [len(vocabulary.encode(text)) for text in TEXTS if text]
    # A model that spends the same on every text, whatever the tokens: the ratio must not see them.
    sums = measure.sums(np.array(BYTES, np.float64) * math.log(2) * 1.25)
    assert (sums.target_tokens, sums.target_bytes) == (sum(tokens), sum(BYTES))
    assert sums.bits_per_byte == pytest.approx(1.25)
    assert sums.documents == 5


def test_truncated_texts_count_the_bytes_of_their_tokens(vocabulary, tmp_path):
    store = write_store(tmp_path / "store", TEXTS, vocabulary, name="five texts")
    measure = DocumentLoss(store, rule=TRUNCATE, layout=Layout(batch_size=2))
    expected = sum(
        len(b"".join(vocabulary.pieces[i] for i in vocabulary.encode(text)[:4])) for text in TEXTS
    )
    assert measure.sums(np.ones(5)).target_bytes == expected < sum(BYTES)


def test_answers_count_the_bytes_of_the_answer(vocabulary, tmp_path):
    store = write_task(tmp_path / "task", ITEMS, vocabulary, benchmark="sky")
    measure = AnswerLoss(store, rule=SLIDE, layout=Layout(batch_size=2))
    assert measure.sums(np.ones(3)).target_bytes == len(" blue" + " are four" + " away")
