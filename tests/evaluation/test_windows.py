"""Every window rule scores each token once, with the context that it promises."""

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.evaluation.windows import (
    LongDocuments,
    Window,
    WindowRule,
    answer_windows,
    document_windows,
)


def rule(context=8, stride=3, long_documents=LongDocuments.SLIDE):
    return WindowRule(context=context, stride=stride, long_documents=long_documents)


def times_scored(windows, length):
    counts = np.zeros(length, int)
    for w in windows:
        counts[w.scored : w.stop] += 1
    return counts


@pytest.mark.parametrize("stride", [1, 3, 7, 8])
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 11, 16, 17, 40, 41])
def test_sliding_scores_each_token_once_with_enough_context(length, stride):
    windows = document_windows(length, rule(stride=stride))
    assert (times_scored(windows, length) == 1).all()
    for w in windows:
        assert w.start <= w.scored < w.stop and w.stop - w.start <= 8
        # All windows after the first have a full context; at least context - stride of its tokens
        # come before the first scored one.
        if w.start:
            assert w.stop - w.start == 8 and w.scored - w.start >= 8 - stride
    assert windows[-1].stop == length


def test_truncating_scores_only_the_beginning():
    truncate = rule(long_documents=LongDocuments.TRUNCATE)
    assert document_windows(20, truncate) == [Window(0, 8, 0)]
    assert document_windows(5, truncate) == [Window(0, 5, 0)]


@pytest.mark.parametrize(
    ("length", "answer"),
    [(n, m) for n in (1, 6, 8, 9, 14, 30) for m in (1, 2, 5, 8, 9, 20) if m <= n],
)
@pytest.mark.parametrize("long_documents", LongDocuments)
def test_answers_are_fully_scored(length, answer, long_documents):
    scored = length - answer
    windows = answer_windows(length, scored, rule(long_documents=long_documents))
    expected = np.arange(length) >= scored
    np.testing.assert_array_equal(times_scored(windows, length), expected)
    assert all(w.stop - w.start <= 8 for w in windows)
    if answer <= 8:
        assert windows == [Window(max(0, length - 8), length, scored)]


def test_rules_are_checked_and_recorded_as_text():
    assert str(rule()) == "slide 8 by 3"
    assert str(rule(long_documents=LongDocuments.TRUNCATE)) == "truncate 8"
    with pytest.raises(UserError, match="stride = 9"):
        rule(stride=9)
    with pytest.raises(UserError, match="at least 1 token"):
        rule(context=0, stride=0)
