"""Runs are ordered by their data; names and the order of points have no effect."""

import numpy as np

from lossline.run_order import run_numbers

NAMES = np.array(["a", "b", "c", "d"])


def points(seed=0):
    """Four runs of 3, 1, 2 and 2 points; the last two differ only in the last value."""
    run = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    size = np.array([1.0, 1, 1, 5, 2, 2, 2, 2])
    value = np.array([3.0, 2, 1, 9, 4, 7, 4, 8])
    order = np.random.default_rng(seed).permutation(len(run)) if seed else np.arange(len(run))
    return run[order], size[order], value[order]


def test_runs_are_numbered_by_their_points():
    run, size, value = points()
    np.testing.assert_array_equal(run_numbers(NAMES[run], size, value), [0, 0, 0, 3, 1, 1, 2, 2])


def test_names_and_the_order_of_points_do_not_change_the_numbers():
    run, size, value = points()
    expected = dict(zip(run, run_numbers(NAMES[run], size, value), strict=True))
    for seed in range(1, 6):
        run, size, value = points(seed)
        names = np.random.default_rng(seed).permutation(NAMES)
        found = run_numbers(names[run], size, value)
        assert dict(zip(run, found, strict=True)) == expected


def test_unknown_values_come_last():
    known, unknown = [1.0, 1.0], [np.nan, 0.5]
    np.testing.assert_array_equal(run_numbers(["a", "b"], known, unknown), [1, 0])


def test_no_points_give_no_runs():
    assert len(run_numbers([], [], [])) == 0
