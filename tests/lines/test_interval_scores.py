"""Interval score: width and misses."""

import numpy as np
import pytest

from lossline.lines.interval_scores import interval_score


def test_score_is_the_width_plus_twenty_times_the_miss_over_the_measurement():
    score = interval_score([1.0, 1.0, 1.0], [3.0, 3.0, 3.0], [2.0, 4.0, 0.5], 0.9)
    np.testing.assert_allclose(score, [2 / 2, (2 + 20 * 1) / 4, (2 + 20 * 0.5) / 0.5])


def test_the_true_quantiles_score_best():
    y = 10 + np.random.default_rng(0).normal(size=20_000)
    half = {size: np.mean(interval_score(10 - size, 10 + size, y)) for size in (1.2, 1.645, 2.2)}
    assert min(half, key=half.__getitem__) == pytest.approx(1.645)


def test_a_missing_interval_has_no_score():
    assert np.isnan(interval_score([np.nan], [np.nan], [2.0])).all()
