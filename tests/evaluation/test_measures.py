"""Measures compared with their definitions, computed one token at a time in float64."""

import math

import jax
import numpy as np
import pytest
from flax import nnx

from lossline.errors import UserError
from lossline.evaluation.documents import Layout
from lossline.evaluation.measures import AnswerLoss, ChoiceAccuracy, DocumentLoss
from lossline.evaluation.packing import RowLayout
from lossline.evaluation.scorer import Scorer
from lossline.evaluation.windows import LongDocuments, WindowRule
from lossline.sharding.mesh import MeshOptions, make_mesh

from .small_model import (
    EOS,
    MemoryStore,
    SmallModel,
    random_store,
    random_task,
    reference_nats,
)

CONTEXT, STRIDE = 12, 5
LENGTHS = [1, 3, 12, 13, 30, 7, 2, 18, 5, 9, 25]
SLIDE = WindowRule(context=CONTEXT, stride=STRIDE)
TRUNCATE = WindowRule(context=CONTEXT, stride=STRIDE, long_documents=LongDocuments.TRUNCATE)


@pytest.fixture(scope="module")
def small_model():
    return SmallModel()


def measured(measure, model, *, mesh=None):
    graphdef, state = nnx.split(model)
    return measure.sums(Scorer(graphdef, mesh=mesh).nats_per_text(state, measure.texts))


def nats_of(model, tokens, i, first):
    """Return -log p(token i | tokens first..i-1); the end-of-document id precedes token 0."""
    inputs = [EOS, *tokens][first : i + 1]
    return reference_nats(model, inputs)[-1][tokens[i]]


def sliding_nats(model, tokens):
    """Compute the sliding rule token by token: the window that scores token i, and its context."""
    total = 0.0
    for i in range(len(tokens)):
        stop = CONTEXT
        while stop <= i:
            stop += STRIDE
        total += nats_of(model, tokens, i, max(0, min(stop, len(tokens)) - CONTEXT))
    return total


@pytest.mark.parametrize("rows", RowLayout)
def test_documents_agree_with_the_definition(small_model, rows):
    store = random_store(LENGTHS)
    got = measured(
        DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=2, rows=rows)), small_model
    )
    per_document = [sliding_nats(small_model, d) for d in store.documents]
    assert got.nats == pytest.approx(sum(per_document), rel=1e-6)
    assert got.target_tokens == sum(LENGTHS)
    assert got.target_bytes == store.document_bytes.sum()
    assert (got.documents, got.truncated) == (len(LENGTHS), 0)
    means = np.array(per_document) / LENGTHS
    assert got.document_losses == pytest.approx(means.sum(), rel=1e-6)
    assert got.bits_per_byte == pytest.approx(sum(per_document) / math.log(2) / got.target_bytes)


def test_truncated_documents_count_only_scored_tokens_and_bytes(small_model):
    store = random_store(LENGTHS)
    got = measured(DocumentLoss(store, rule=TRUNCATE, layout=Layout(batch_size=4)), small_model)
    kept = [d[:CONTEXT] for d in store.documents]
    expected = sum(nats_of(small_model, d, i, 0) for d in kept for i in range(len(d)))
    assert got.nats == pytest.approx(expected, rel=1e-6)
    assert got.target_tokens == sum(map(len, kept))
    assert got.target_bytes == sum(int(store.token_bytes[d].sum()) for d in kept)
    assert got.truncated == sum(n > CONTEXT for n in LENGTHS)


def test_truncated_document_never_counts_more_bytes_than_it_has(small_model):
    # A SentencePiece vocabulary's first token may stand for a space that is not in the text.
    store = MemoryStore([np.array([5] * 13, np.int32)], [12], np.full(40, 1, np.int32))
    got = DocumentLoss(store, rule=TRUNCATE, layout=Layout(batch_size=1)).sums(np.ones(1))
    assert got.target_bytes == 12


def answer_nats(model, question, choice):
    tokens = np.concatenate([question.context, question.choices[choice]])
    scored = len(question.context)
    first = max(0, len(tokens) - CONTEXT)
    return sum(nats_of(model, tokens, i, first) for i in range(scored, len(tokens)))


def test_gold_answers_and_accuracies_agree_with_the_definition(small_model):
    task = random_task([0, 3, 8, 20, 5, 1, 9, 9, 2], [2, 5, 1, 4])
    layout = Layout(batch_size=3)
    gold = measured(AnswerLoss(task, rule=SLIDE, layout=layout), small_model)
    every = measured(ChoiceAccuracy(task, rule=SLIDE, layout=layout), small_model)
    nats = np.array([[answer_nats(small_model, q, c) for c in range(4)] for q in task.questions])
    golds = np.array([q.gold for q in task.questions])
    lengths, sizes = np.array([2, 5, 1, 4]), np.array([7, 16, 4, 13])
    for got in (gold, every):
        assert got.nats == pytest.approx(nats[np.arange(9), golds].sum(), rel=1e-6)
        assert got.target_tokens == lengths[golds].sum()
        assert got.target_bytes == sizes[golds].sum()
        assert (got.documents, got.questions) == (9, 9)
        cut = [len(q.context) + len(q.choices[q.gold]) > CONTEXT for q in task.questions]
        assert got.truncated == sum(cut)
    assert gold.correct is None and gold.accuracy is None
    assert every.correct == (nats.argmin(1) == golds).sum()
    assert every.correct_per_token == ((nats / lengths).argmin(1) == golds).sum()
    assert every.correct_per_byte == ((nats / sizes).argmin(1) == golds).sum()
    assert 0 < every.correct < 9  # the case tells a right comparison from a wrong one


def test_answers_longer_than_the_context_are_fully_scored(small_model):
    task = random_task([3], [30])
    got = measured(AnswerLoss(task, rule=TRUNCATE, layout=Layout(batch_size=1)), small_model)
    assert got.target_tokens == 30
    whole = np.concatenate([task.questions[0].context, task.questions[0].choices[0]])
    skipped = sum(nats_of(small_model, whole, i, 0) for i in range(3))
    assert got.nats == pytest.approx(sliding_nats(small_model, whole) - skipped, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("rows", RowLayout)
def test_sums_do_not_depend_on_batch_size_or_padding(small_model, batch_size, rows):
    store = random_store(LENGTHS)
    layout = Layout(batch_size=batch_size, rows=rows)
    got = measured(DocumentLoss(store, rule=SLIDE, layout=layout), small_model)
    base = measured(DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=7)), small_model)
    assert got.nats == pytest.approx(base.nats, rel=3e-7)
    assert (got.target_tokens, got.target_bytes) == (base.target_tokens, base.target_bytes)


def test_sums_do_not_depend_on_the_number_of_devices(small_model):
    store = random_store(LENGTHS)
    mesh = make_mesh(MeshOptions(data=4, fsdp=2))
    assert len(jax.devices()) == 8
    measure = DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=16, groups=8))
    base = measured(DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=7)), small_model)
    assert measured(measure, small_model, mesh=mesh).nats == pytest.approx(base.nats, rel=3e-7)


def test_max_documents_takes_the_first_documents(small_model):
    store = random_store(LENGTHS)
    few = DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=2), max_documents=3)
    assert few.sums(np.ones(3)).target_tokens == sum(LENGTHS[:3])


def test_empty_documents_are_not_counted():
    store = random_store([0, 4, 0])
    measure = DocumentLoss(store, rule=SLIDE, layout=Layout(batch_size=2))
    assert measure.sums(np.ones(1)).documents == 1


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_empty_set_is_refused(lengths):
    with pytest.raises(UserError, match="evaluation set memory has no text to score"):
        DocumentLoss(random_store(lengths), rule=SLIDE, layout=Layout(batch_size=2))


def test_empty_benchmark_or_answer_is_refused():
    with pytest.raises(UserError, match="has no questions"):
        AnswerLoss(random_task([], [1]), rule=SLIDE, layout=Layout(batch_size=2))
    with pytest.raises(UserError, match="answer 1 of question 0 is empty"):
        ChoiceAccuracy(random_task([3], [1, 0]), rule=SLIDE, layout=Layout(batch_size=2))
