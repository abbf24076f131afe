"""Packed rows contain every window once, complete and separated from the others."""

import numpy as np
import pytest

from lossline.evaluation.packing import PackedTexts, RowLayout
from lossline.evaluation.windows import WindowRule, document_windows

EOS = 1


def packed(
    lengths,
    *,
    row_length=16,
    batch_size=4,
    groups=1,
    layout=RowLayout.PACKED,
    context=None,
    seed=0,
):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(2, 99, n).astype(np.int32) for n in lengths]
    rule = WindowRule(context=context or row_length, stride=max(1, (context or row_length) // 2))
    windows = [document_windows(len(text), rule) for text in texts]
    return texts, PackedTexts(
        texts,
        windows,
        opening_id=EOS,
        row_length=row_length,
        batch_size=batch_size,
        groups=groups,
        layout=layout,
    )


def segments(plan):
    """Return (inputs, positions) of each window in the rows."""
    for batch in plan.batches():
        for inputs, ids, positions in zip(
            batch.inputs_BxL, batch.segment_ids_BxL, batch.positions_BxL, strict=True
        ):
            for segment in range(1, ids.max(initial=0) + 1):
                yield inputs[ids == segment], positions[ids == segment]


LENGTHS = [1, 5, 16, 17, 40, 3, 3, 9, 2, 33, 15, 1]


@pytest.mark.parametrize("layout", RowLayout)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_every_token_is_a_target_once_and_sees_only_its_own_text(layout, groups):
    texts, plan = packed(LENGTHS, layout=layout, groups=groups)
    found = [[] for _ in texts]
    for batch in plan.batches():
        grouped = batch.inputs_BxL.reshape(groups, -1)
        for group, k in np.argwhere(batch.scored_GxK):
            token = grouped[group, batch.index_GxK[group, k]]
            found[batch.texts_GxK[group, k]].append((token, batch.targets_GxK[group, k]))
    for text, pairs in zip(texts, found, strict=True):
        shifted = [EOS, *text[:-1]]
        assert sorted(pairs) == sorted(zip(shifted, text, strict=True))


def test_windows_are_not_split_and_positions_restart():
    texts, plan = packed([4, 7, 2, 12, 16, 1])
    expected = sorted(tuple([EOS, *text[:-1]]) for text in texts)
    windows = list(segments(plan))
    assert sorted(tuple(inputs) for inputs, _ in windows) == expected
    for _, positions in windows:
        np.testing.assert_array_equal(positions, np.arange(len(positions)))


def test_layout_does_not_depend_on_the_batch_size():
    def rows(batch_size):
        _, plan = packed(LENGTHS, batch_size=batch_size)
        everything = np.concatenate([b.inputs_BxL for b in plan.batches()])
        return everything[: plan.num_rows]

    np.testing.assert_array_equal(rows(1), rows(4))
    np.testing.assert_array_equal(rows(1), rows(100))


def test_packing_adds_little_padding():
    rng = np.random.default_rng(3)
    _, plan = packed(rng.integers(1, 100, 500), row_length=256, batch_size=8)
    assert plan.num_tokens / (plan.num_rows * 256) > 0.97
    _, padded = packed(rng.integers(1, 100, 500), row_length=256, layout=RowLayout.PADDED)
    assert padded.num_rows == 500


def test_shapes_are_fixed_and_padding_is_marked():
    _, plan = packed(LENGTHS, batch_size=4)
    shapes = {
        (b.inputs_BxL.shape, b.index_GxK.shape, b.targets_GxK.shape, b.texts_GxK.shape)
        for b in plan.batches()
    }
    assert shapes == {((4, 16), *[(1, plan.capacity)] * 3)}
    last = list(plan.batches())[-1]
    used = plan.num_rows - 4 * (plan.num_batches - 1)
    assert (last.segment_ids_BxL[used:] == 0).all()


def test_window_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="does not fit rows of 8"):
        packed([12], row_length=8, context=12)
