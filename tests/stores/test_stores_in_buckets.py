"""A store in a bucket is that on a disk, whole or absent, whenever its writer is killed."""

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.places import to_path
from lossline.stores import arrays
from lossline.stores.sealed_json import NoStore
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary


def test_store_in_a_bucket_is_that_on_a_disk_and_resumes(bucket, emulator, texts, store):
    path = to_path(f"{bucket}/stores/small")
    options = {"name": "small", "chunk": 200}
    # Killed while it tokenizes, and while it moves the store to its name.
    for name, action in (("parts/00000005", "write"), ("stores/small/manifest", "copy")):
        fails = {"status": 403, "times": 99}
        emulator.fail("refused", lambda r, n=name, a=action: r.action == a and n in r.name, **fails)
        with pytest.raises(UserError, match="no permission"):
            write_store(path, texts, ByteVocabulary(), **options)
        emulator.faults.clear()
        with pytest.raises(NoStore):
            TokenStore.open(path)
    emulator.seen.clear()
    there = write_store(path, texts, ByteVocabulary(), **options)
    assert there.manifest.fingerprint == store.manifest.fingerprint
    np.testing.assert_array_equal(there.read(0, 500), store.read(0, 500))
    there.verify()
    assert [item.name for item in path.parent.iterdir()] == ["small"]
    write_store(path, texts, ByteVocabulary(), **options)  # the same again
    with pytest.raises(UserError, match="contains another store"):
        write_store(path, texts[:2], ByteVocabulary(), name="other")


def test_arrays_of_several_chunks_and_shards_are_read(bucket):
    there = write_store(
        to_path(f"{bucket}/large"), ["word " * 9000] * 4, ByteVocabulary(), shard=2 * arrays.CHUNK
    )
    assert len(list((to_path(there.location) / "tokens" / "c").iterdir())) > 1
    there.verify()
    np.testing.assert_array_equal(there.read(45001, 45006), there.read(0, 5))


def test_store_with_a_lost_file_is_refused(bucket, texts):
    path = to_path(f"{bucket}/small")
    write_store(path, texts, ByteVocabulary())
    (path / "tokens" / "c" / "0").unlink()
    with pytest.raises(UserError, match=r"tokens/c/0: missing, so the folder is incomplete"):
        TokenStore.open(path)
