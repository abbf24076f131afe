"""A store gives back its documents, and anything wrong with it is one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lossline.errors import UserError
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.vocabularies import ByteVocabulary


def test_documents_come_back(store: TokenStore, texts: list[str]) -> None:
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


def test_shards_and_processes_do_not_change_the_store(
    store: TokenStore, tmp_path: Path, texts: list[str]
) -> None:
    other = write_store(tmp_path / "other", texts, ByteVocabulary(), name="small", shard=512)
    assert len(list((tmp_path / "other" / "tokens").rglob("*"))) > 3
    assert other.manifest.fingerprint == store.manifest.fingerprint
    np.testing.assert_array_equal(other.read(0, other.num_tokens), store.read(0, store.num_tokens))
    np.testing.assert_array_equal(
        other.read_many([3, 500, 509], 20), [other.read(s, s + 20) for s in (3, 500, 509)]
    )


def test_url_opens_as_path_does(store: TokenStore) -> None:
    by_url = TokenStore.open(f"file://{store.location}")
    assert by_url.manifest == store.manifest
    np.testing.assert_array_equal(by_url.document(3), store.document(3))


def test_same_content_again_is_kept_other_content_is_refused(
    store: TokenStore, texts: list[str]
) -> None:
    again = write_store(store.location, texts, ByteVocabulary(), name="small")
    assert again.manifest == store.manifest
    with pytest.raises(UserError, match="holds another store"):
        write_store(store.location, ["something else"], ByteVocabulary())
    assert TokenStore.open(store.location, verify=True).manifest == store.manifest


def test_no_documents_and_no_utf8_are_refused(tmp_path: Path) -> None:
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


def test_missing_and_half_written_stores_are_refused(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such store"):
        TokenStore.open(tmp_path / "nowhere")
    (Path(store.location) / "manifest.json").unlink()
    with pytest.raises(UserError, match="no manifest"):
        TokenStore.open(store.location)


@pytest.mark.parametrize("array", ["tokens", "offsets", "document_bytes", "token_bytes"])
def test_truncation_is_noticed_at_opening(store: TokenStore, array: str) -> None:
    file = next(path for path in (Path(store.location) / array / "c").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        TokenStore.open(store.location)
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        TokenStore.open(store.location)


@pytest.mark.parametrize("key", ["documents", "tokens", "name", "vocabulary", "arrays"])
def test_tampered_manifest_is_noticed_at_opening(store: TokenStore, key: str) -> None:
    path = Path(store.location) / "manifest.json"
    body = json.loads(path.read_text())
    body[key] = {**body[key], "hash": "f" * 64} if isinstance(body[key], dict) else "changed"
    path.write_text(json.dumps(body))
    with pytest.raises(UserError, match="was changed after it was written"):
        TokenStore.open(store.location)


def test_changed_tokens_are_noticed_by_their_checksums(store: TokenStore) -> None:
    file = next((Path(store.location) / "tokens" / "c").iterdir())
    data = bytearray(file.read_bytes())
    data[40] ^= 1
    file.write_bytes(bytes(data))
    damaged = TokenStore.open(store.location)  # lengths are right: cheap checks pass
    with pytest.raises(UserError, match="damaged"):
        damaged.read(0, 30)
    with pytest.raises(UserError, match="damaged"):
        TokenStore.open(store.location, verify=True)


def test_exchanged_tokens_are_noticed_by_verify(
    store: TokenStore, tmp_path: Path, texts: list[str]
) -> None:
    """Every file whole and with valid checksums, but not the ones of this manifest."""
    reversed_documents = [text[::-1] for text in texts]
    other = write_store(tmp_path / "other", reversed_documents, ByteVocabulary())
    shutil.rmtree(Path(store.location) / "tokens")
    shutil.copytree(Path(other.location) / "tokens", Path(store.location) / "tokens")
    TokenStore.open(store.location)
    with pytest.raises(UserError, match="contents were changed"):
        TokenStore.open(store.location, verify=True)
