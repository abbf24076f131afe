"""Sums are added, divided once, and missing values stay missing."""

import math

import pytest

from lossline.evaluation.definitions import Sums, accuracy, answer, bits_per_byte, loss


def sums(**kwargs):
    return Sums(**{"nats": 0.0, "target_tokens": 0, "target_bytes": 0, "documents": 0, **kwargs})


def test_sums_are_added_and_divided_once():
    short = sums(nats=1.0, target_tokens=1, target_bytes=1, documents=1)
    long = sums(nats=3.0, target_tokens=9, target_bytes=31, documents=1, truncated=1)
    total = short + long
    assert total == sums(nats=4.0, target_tokens=10, target_bytes=32, documents=2, truncated=1)
    assert total.loss == 0.4
    assert total.bits_per_byte == pytest.approx(4 / math.log(2) / 32)
    # The mean of the two losses, or of the two ratios of bits to bytes, would be another number.
    assert total.loss != (short.loss + long.loss) / 2


def test_values_that_were_not_measured_are_none():
    unmeasured = sums(questions=4, target_tokens=1)
    assert unmeasured.accuracy is None
    assert (unmeasured + sums(questions=4, correct=3)).correct is None
    assert sums(questions=4, correct=3).accuracy == 0.75


@pytest.mark.parametrize("divide", [loss, bits_per_byte, accuracy])
def test_dividing_by_no_scored_tokens_raises(divide):
    with pytest.raises(ValueError, match="nothing was scored"):
        divide(0.0, 0)


def test_first_of_equal_choices_is_chosen():
    assert answer([2.0, 1.0, 1.0]) == 1
