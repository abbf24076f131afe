"""Powers spanned by few functions of x agree with powers computed at every point."""

import numpy as np
import pytest

from lossline.lines import power_sums
from lossline.lines.estimators import TASK_PRIOR, TEXT_PRIOR, Points, estimate
from lossline.lines.power_sums import Powers, span_of
from lossline.lines.run_errors import RunErrors

RUNS, OF_RUN = 60, 40


def sample(low=1.8, high=9.0, noise=0.01):
    """Return points of a planted line: a run's points fall from high to low, with shared errors."""
    rng = np.random.default_rng(3)
    x = np.exp(rng.uniform(np.log(low), np.log(high), (RUNS, OF_RUN)))
    y = 0.8 * (x - 1.2) ** 1.1 + 0.7
    y = y * np.exp(noise * (rng.normal(size=(RUNS, 1)) + 0.3 * rng.normal(size=x.shape)))
    run = np.repeat(np.arange(RUNS), OF_RUN)
    return Points(x=x.ravel(), y=y.ravel(), run=run, allocation=rng.normal(size=x.size))


@pytest.mark.parametrize("highest", [0.998, 0.8])
@pytest.mark.parametrize("high", [1.82, 9.0])
def test_sums_agree_at_any_shape(highest, high):
    points, rng = sample(high=high), np.random.default_rng(0)
    low = points.x.min()
    asked = {
        "middle": float(np.median(points.x)),
        "errors": RunErrors(run=points.run, shared=0.6),
        "size": points.y,
        "weight": (points.x / low) ** -6.0,
        "rest": np.stack([1 / points.y, points.allocation]),
        "y": points.y,
    }
    span = span_of(points.x, runs=RUNS, highest=highest, log_kappa=(np.log(0.2), np.log(4.0)))
    assert span is not None and len(span.functions) < 30
    shares = 1 - np.exp(rng.uniform(np.log(1 - highest), 0, 50))
    shapes = low * shares, rng.uniform(np.log(0.2), np.log(4.0), 50)
    weights = rng.dirichlet(np.ones(RUNS), size=50) * RUNS
    for paired in (False, True):
        exact, spanned = (
            Powers(points.x, **asked, span=each).at(*shapes)(weights, paired=paired)
            for each in (None, span)
        )
        np.testing.assert_allclose(spanned.square, exact.square, rtol=1e-8)
        for one, two in zip((*spanned.rest, spanned.y), (*exact.rest, exact.y), strict=True):
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-8 * np.abs(two).max())


@pytest.mark.parametrize("prior", [TEXT_PRIOR, TASK_PRIOR], ids=["text", "task"])
@pytest.mark.parametrize("noise", [0.01, 0.0])
def test_estimates_agree(monkeypatch, prior, noise):
    points = sample(noise=noise)
    found = estimate(points, prior, resamples=20)
    monkeypatch.setattr(power_sums, "_MANY_POINTS", len(points.x) + 1)
    exact = estimate(points, prior, resamples=20)
    assert not np.array_equal(found.parameters, exact.parameters)  # two ways, one result
    np.testing.assert_allclose(found.parameters, exact.parameters, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.draws, exact.draws, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.scatter, exact.scatter, rtol=1e-6, atol=1e-12)


def test_few_points_are_not_spanned():
    x = np.linspace(2, 3, 1999)
    assert span_of(x, runs=10, highest=0.9, log_kappa=(-1.0, 1.0)) is None
