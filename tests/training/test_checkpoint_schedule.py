"""Steps that the checkpoint schedule keeps."""

import pytest

from lossline.errors import UserError
from lossline.training.checkpoint_schedule import CheckpointOptions, Spacing


def test_linear_spacing():
    assert CheckpointOptions(count=4).kept_steps(100) == (25, 50, 75, 100)
    assert CheckpointOptions(count=3, first=20).kept_steps(100) == (20, 60, 100)


def test_geometric_spacing():
    options = CheckpointOptions(count=4, spacing=Spacing.GEOMETRIC, first=1)
    assert options.kept_steps(1000) == (1, 10, 100, 1000)
    assert CheckpointOptions(count=3, spacing=Spacing.GEOMETRIC).kept_steps(10_000) == (
        100,
        1000,
        10_000,
    )


def test_count_every_and_steps_are_combined():
    options = CheckpointOptions(count=2, every=40, steps=(7,))
    assert options.kept_steps(100) == (7, 40, 50, 80, 100)
    assert CheckpointOptions(count=0).kept_steps(9) == (9,)


@pytest.mark.parametrize("spacing", Spacing)
@pytest.mark.parametrize(("count", "steps"), [(10, 10), (10, 11), (12, 15), (1, 1), (12, 400)])
def test_number_of_checkpoints_equals_count_even_in_short_runs(spacing, count, steps):
    kept = CheckpointOptions(count=count, spacing=spacing).kept_steps(steps)
    assert len(kept) == count
    assert kept[-1] == steps and kept[0] >= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CheckpointOptions(count=5).kept_steps(4), r"the 4 steps of the run. Set it to 4"),
        (lambda: CheckpointOptions(steps=(9,)).kept_steps(8), "steps contains 9, .* Remove 9"),
        (lambda: CheckpointOptions(first=9, count=3).kept_steps(8), "first = 9 .*between 1 and 6"),
        (lambda: CheckpointOptions(every=0), "checkpoints.every"),
        (lambda: CheckpointOptions(count=-1), "at least 0"),
        (lambda: CheckpointOptions(optimizer_states=0), "optimizer_states"),
    ],
)
def test_wrong_options_raise_user_error(make, message):
    with pytest.raises(UserError, match=message):
        make()
