"""The sample of tokens: windows of training, drawn evenly, and the text of their tokens."""

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.stores.store_writer import write_store
from lossline.token_curves.options import FollowOptions
from lossline.token_curves.sample import draw_windows
from lossline.vocabularies import Bytes, ByteVocabulary

LENGTH = 16


class OtherBytes(ByteVocabulary):
    """A vocabulary whose pieces cannot be known from its name."""

    def __init__(self):
        pieces = [b""] * self.SPECIALS + [bytes([value]) for value in range(256)]
        super(ByteVocabulary, self).__init__(
            name="other", kind="tiktoken", pieces=pieces, eos_id=1, pad_id=0, content="other"
        )


def options(**changes):
    return FollowOptions(runs=("r",), store="s", **{"tokens": 160, **changes})


def drawn(store, **changes):
    return draw_windows(store, options(**changes), context_length=LENGTH)


def test_targets_positions_and_documents_are_those_of_the_store(store):
    found = drawn(store)
    sample = found.sample
    assert len(sample.positions) == 160 and len(np.unique(sample.windows)) == 10
    tokens = store.read(0, store.num_tokens)
    assert np.array_equal(sample.token_ids, tokens[sample.positions])
    assert np.array_equal(found.batch.targets.ravel(), sample.token_ids)
    for position, document in zip(sample.positions, sample.documents, strict=True):
        assert store.offsets[document] <= position < store.offsets[document + 1]
    assert np.all(np.diff(sample.positions) > 0)
    assert set(sample.shown) <= set(sample.windows.tolist()) and len(sample.shown) == 4


def test_a_larger_sample_contains_the_smaller_one(store):
    small, large = drawn(store).sample, drawn(store, tokens=1000).sample
    assert set(small.windows) < set(large.windows) and small.shown == large.shown
    assert len(drawn(store, tokens=161).sample.positions) == 176  # whole windows
    assert len(drawn(store, tokens=10**9).sample.positions) == store.num_tokens // 16 * 16


def test_every_window_is_drawn_equally_often(store):
    count = store.num_tokens // LENGTH
    times = np.zeros(count)
    for seed in range(300):
        times[np.unique(drawn(store, seed=seed).sample.windows)] += 1
    share = 10 / count
    assert times.sum() == 3000
    assert np.abs(times / 300 - share).max() < 5 * (share * (1 - share) / 300) ** 0.5


def test_text_of_the_tokens(store, tmp_path):
    assert drawn(store).sample.pieces == ByteVocabulary().pieces
    assert drawn(store, vocabulary=Bytes()).sample.pieces == ByteVocabulary().pieces
    other = write_store(tmp_path / "other", ["some words"] * 40, OtherBytes(), name="other")
    assert drawn(other).sample.pieces is None
    with pytest.raises(UserError, match=r"bytes \(\w{8}\) is not the vocabulary of store .*other"):
        drawn(other, vocabulary="bytes")
    with pytest.raises(UserError, match="vocabulary 'other': not below"):
        drawn(other, vocabulary="{tokenizer}")


def test_a_store_shorter_than_a_window_is_refused(store):
    with pytest.raises(UserError, match=r"fewer than a window of 1000000\. Prepare a larger"):
        draw_windows(store, options(), context_length=1_000_000)
