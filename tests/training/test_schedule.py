"""Schedules compared with their formulas."""

import math

import pytest

from lossline.errors import UserError
from lossline.training.schedule import ConstantSchedule, CosineSchedule, DecayShape, WSDSchedule

SCHEDULES = (
    CosineSchedule(),
    CosineSchedule(warmup=0, final=0),
    WSDSchedule(),
    WSDSchedule(warmup=0, decay=1, shape=DecayShape.COSINE),
    ConstantSchedule(),
    ConstantSchedule(warmup=0.3),
)


def test_cosine_equals_its_formula():
    schedule = CosineSchedule(warmup=0.1, final=0.1)
    factors = [schedule.factor(k, 100) for k in range(100)]
    assert factors[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factors[54] == pytest.approx(0.1 + 0.9 * 0.5)  # halfway down
    assert factors[32] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 23 / 90)))
    assert factors[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("shape", "halfway"),
    [(DecayShape.LINEAR, 0.5), (DecayShape.SQRT, 1 - math.sqrt(0.5)), (DecayShape.COSINE, 0.5)],
)
def test_wsd_equals_its_formula(shape, halfway):
    schedule = WSDSchedule(warmup=0.1, decay=0.2, final=0.0, shape=shape)
    factors = [schedule.factor(k, 100) for k in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:80] == [1.0] * 71
    assert factors[89] == pytest.approx(halfway)
    assert factors[-1] == pytest.approx(0.0)


def test_constant_rate_after_warmup():
    assert [ConstantSchedule().factor(k, 5) for k in range(5)] == [1.0] * 5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 1000])
def test_factors_are_in_range_for_every_number_of_steps(schedule, steps):
    factors = [schedule.factor(k, steps) for k in range(steps)]
    assert all(0 <= factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineSchedule(warmup=2), "cosine.warmup = 2: must be a share"),
        (lambda: CosineSchedule(final=-0.1), "cosine.final"),
        (lambda: WSDSchedule(warmup=0.5, decay=0.6), "more than the whole run"),
        (lambda: ConstantSchedule(warmup=-1), "constant_rate.warmup"),
    ],
)
def test_wrong_options_raise_user_error(make, message):
    with pytest.raises(UserError, match=message):
        make()
