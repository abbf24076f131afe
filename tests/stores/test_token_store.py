"""A token store returns its documents and detects damage and changes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary


def test_token_store_returns_its_documents(store: TokenStore, texts: list[str]) -> None:
    vocabulary = ByteVocabulary()
    assert store.num_documents == len(texts)
    for i in (0, 5, len(texts) - 1):
        ids = store.document(i)
        assert ids[-1] == vocabulary.eos_id
        assert vocabulary.decode(ids[:-1]) == texts[i]
    sizes = [len(text.encode()) for text in texts]
    np.testing.assert_array_equal(store.document_bytes, sizes)
    assert store.manifest.bytes == sum(sizes)
    assert store.num_tokens == sum(sizes) + len(texts)
    assert store.read(0, store.num_tokens).dtype == np.int32
    assert store.token_bytes[store.read(0, store.num_tokens)].sum() == sum(sizes)


def test_shard_size_does_not_change_the_fingerprint(
    store: TokenStore, tmp_path: Path, texts: list[str]
) -> None:
    other = write_store(tmp_path / "other", texts, ByteVocabulary(), name="small", shard=512)
    assert len(list((tmp_path / "other" / "tokens").rglob("*"))) > 3
    assert other.manifest.fingerprint == store.manifest.fingerprint
    np.testing.assert_array_equal(other.read(0, other.num_tokens), store.read(0, store.num_tokens))
    np.testing.assert_array_equal(
        other.read_many([3, 500, 509], 20), [other.read(s, s + 20) for s in (3, 500, 509)]
    )


def test_url_opens_the_same_store_as_path(store: TokenStore) -> None:
    by_url = TokenStore.open(f"file://{store.location}")
    assert by_url.manifest == store.manifest
    np.testing.assert_array_equal(by_url.document(3), store.document(3))


def test_equal_content_is_kept_and_other_content_is_refused(
    store: TokenStore, texts: list[str]
) -> None:
    again = write_store(store.location, texts, ByteVocabulary(), name="small")
    assert again.manifest == store.manifest
    with pytest.raises(UserError, match="contains another store"):
        write_store(store.location, ["something else"], ByteVocabulary())
    assert TokenStore.open(store.location, verify=True).manifest == store.manifest


def test_empty_source_and_invalid_utf8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no documents"):
        write_store(tmp_path / "store", [], ByteVocabulary())
    with pytest.raises(UserError, match=r"document 1 .* is not UTF-8"):
        write_store(tmp_path / "store", [b"fine", b"\xff"], ByteVocabulary())
    with pytest.raises(UserError, match=r"document 0 .* is not UTF-8"):
        write_store(tmp_path / "store", ["\ud800"], ByteVocabulary())
    assert not (tmp_path / "store").exists()


def test_another_vocabulary_is_refused(store: TokenStore) -> None:
    TokenStore.open(store.location, vocabulary_hash=ByteVocabulary().hash)
    with pytest.raises(UserError, match="made with vocabulary bytes"):
        TokenStore.open(store.location, vocabulary_hash="0" * 64)


def test_missing_and_unfinished_stores_are_refused(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such store"):
        TokenStore.open(tmp_path / "nowhere")
    (Path(store.location) / "manifest.json").unlink()
    with pytest.raises(UserError, match="no manifest"):
        TokenStore.open(store.location)


@pytest.mark.parametrize("array", ["tokens", "offsets", "document_bytes", "token_bytes"])
def test_open_detects_truncated_and_missing_files(store: TokenStore, array: str) -> None:
    file = next(path for path in (Path(store.location) / array / "c").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        TokenStore.open(store.location)
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        TokenStore.open(store.location)


@pytest.mark.parametrize("key", ["documents", "tokens", "name", "vocabulary", "arrays"])
def test_open_detects_a_changed_manifest(store: TokenStore, key: str) -> None:
    path = Path(store.location) / "manifest.json"
    body = json.loads(path.read_text())
    body[key] = {**body[key], "hash": "f" * 64} if isinstance(body[key], dict) else "changed"
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match="changed after it was written"):
        TokenStore.open(store.location)


def test_checksums_detect_changed_tokens(store: TokenStore) -> None:
    file = next((Path(store.location) / "tokens" / "c").iterdir())
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(bytes(data))
    damaged = TokenStore.open(store.location)  # file sizes are right, so the open checks pass
    with pytest.raises(UserError, match="damaged"):
        damaged.read(0, 30)
    with pytest.raises(UserError, match="damaged"):
        TokenStore.open(store.location, verify=True)


def test_verify_detects_tokens_of_another_store(
    store: TokenStore, tmp_path: Path, texts: list[str]
) -> None:
    """All files are complete with valid checksums, but belong to another store."""
    reversed_documents = [text[::-1] for text in texts]
    other = write_store(tmp_path / "other", reversed_documents, ByteVocabulary())
    shutil.rmtree(Path(store.location) / "tokens")
    shutil.copytree(Path(other.location) / "tokens", Path(store.location) / "tokens")
    TokenStore.open(store.location)
    with pytest.raises(UserError, match="contents were changed"):
        TokenStore.open(store.location, verify=True)
