"""Sums add, divide once, and never stand in for what was not measured."""

import math

import pytest

from lossline.evaluation.definitions import Sums, accuracy, answer, bits_per_byte, loss


def sums(**kwargs):
    return Sums(**{"nats": 0.0, "target_tokens": 0, "target_bytes": 0, "documents": 0, **kwargs})


def test_sums_add_and_divide_once():
    short = sums(nats=1.0, target_tokens=1, target_bytes=1, documents=1)
    long = sums(nats=3.0, target_tokens=9, target_bytes=31, documents=1, truncated=1)
    total = short + long
    assert total == sums(nats=4.0, target_tokens=10, target_bytes=32, documents=2, truncated=1)
    assert total.loss == 0.4
    assert total.bits_per_byte == pytest.approx(4 / math.log(2) / 32)
    # The mean of the two losses, or of the two ratios of bits to bytes, would be another number.
    assert total.loss != (short.loss + long.loss) / 2


def test_what_was_not_measured_has_no_value():
    unmeasured = sums(questions=4, target_tokens=1)
    assert unmeasured.accuracy is None
    assert (unmeasured + sums(questions=4, correct=3)).correct is None
    assert sums(questions=4, correct=3).accuracy == 0.75


@pytest.mark.parametrize("divide", [loss, bits_per_byte, accuracy])
def test_nothing_scored_is_an_error_not_a_zero(divide):
    with pytest.raises(ValueError, match="nothing was scored"):
        divide(0.0, 0)


def test_ties_go_to_the_first_choice():
    assert answer([2.0, 1.0, 1.0]) == 1
