"""Which steps are kept."""

import pytest

from lossline.errors import UserError
from lossline.training.checkpoint_schedule import CheckpointOptions, Spacing


def test_linear():
    assert CheckpointOptions(count=4).kept_steps(100) == (25, 50, 75, 100)
    assert CheckpointOptions(count=3, first=20).kept_steps(100) == (20, 60, 100)


def test_geometric():
    options = CheckpointOptions(count=4, spacing=Spacing.GEOMETRIC, first=1)
    assert options.kept_steps(1000) == (1, 10, 100, 1000)
    assert CheckpointOptions(count=3, spacing=Spacing.GEOMETRIC).kept_steps(10_000) == (
        100,
        1000,
        10_000,
    )


def test_other_reasons_join():
    options = CheckpointOptions(count=2, every=40, steps=(7,))
    assert options.kept_steps(100) == (7, 40, 50, 80, 100)
    assert CheckpointOptions(count=0).kept_steps(9) == (9,)


@pytest.mark.parametrize("spacing", Spacing)
@pytest.mark.parametrize(("count", "steps"), [(10, 10), (10, 11), (12, 15), (1, 1), (12, 400)])
def test_as_many_as_asked_even_in_short_runs(spacing, count, steps):
    kept = CheckpointOptions(count=count, spacing=spacing).kept_steps(steps)
    assert len(kept) == count
    assert kept[-1] == steps and kept[0] >= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CheckpointOptions(count=5).kept_steps(4), r"the 4 steps of the run; set it to 4"),
        (lambda: CheckpointOptions(steps=(9,)).kept_steps(8), "steps has 9, .*; leave it out"),
        (lambda: CheckpointOptions(first=9, count=3).kept_steps(8), "first = 9 .*between 1 and 6"),
        (lambda: CheckpointOptions(every=0), "checkpoints.every"),
        (lambda: CheckpointOptions(count=-1), "at least 0"),
        (lambda: CheckpointOptions(optimizer_states=0), "optimizer_states"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(UserError, match=message):
        make()
