"""Guarantees of shards: they cover all pages once, in about equal parts."""

import numpy as np
import pytest

from lossline.scoring.score_parts import ScoreParts
from lossline.scoring.shards import ShardFiles, shard_ranges


@pytest.mark.parametrize("shard_tokens", [1, 7, 100, 10**9])
@pytest.mark.parametrize("seed", range(5))
def test_ranges_cover_all_pages_once(shard_tokens, seed):
    tokens = np.random.default_rng(seed).integers(1, 60, 200)
    ranges = shard_ranges(tokens, shard_tokens)
    assert [p for pages in ranges for p in range(pages.start, pages.stop)] == list(range(200))
    sizes = [int(tokens[pages].sum()) for pages in ranges]
    assert min(sizes) > 0
    if shard_tokens == 100:
        assert max(sizes) < 100 + 2 * 60 and min(sizes) > 100 - 2 * 60
        assert len(ranges) == round(tokens.sum() / 100)


def test_one_page_is_one_shard():
    assert shard_ranges(np.array([5]), 2) == [slice(0, 1)]


def test_only_whole_and_finite_shards_are_kept(tmp_path):
    files = ShardFiles(tmp_path / "model")
    files.keep(slice(0, 2), np.array([1.0, np.nan]))
    assert not (tmp_path / "model").exists()
    files.keep(slice(0, 2), np.array([1.0, 0.1]))
    assert files.read(slice(0, 2)).tolist() == [1.0, 0.1]
    assert files.read(slice(0, 3)) is None and files.read(slice(2, 4)) is None


def test_no_changed_byte_goes_unnoticed(tmp_path):
    shards, parts = ShardFiles(tmp_path / "shards"), ScoreParts(tmp_path / "parts", ["nats"], 4)
    pages, windows = slice(0, 2), range(2)
    shards.keep(pages, np.array([1.0, 0.1]))
    parts.keep(windows, {"nats": np.ones((2, 4), np.float16)})
    for folder, read in (
        ("shards", lambda: shards.read(pages)),
        ("parts", lambda: (found := parts.read(windows)) and found["nats"]),
    ):
        [file] = (tmp_path / folder).iterdir()
        kept, content = read(), file.read_bytes()
        for place in range(0, len(content), 3):
            file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
            found = read()
            assert found is None or np.array_equal(found, kept), place
            file.write_bytes(content[:place])
            assert read() is None, place
