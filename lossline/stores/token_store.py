"""Token stores: one flat array of token ids, offsets and sizes of documents, and a manifest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.places import in_bucket, to_path
from lossline.stores import arrays, manifests
from lossline.stores.manifests import Manifest
from lossline.stores.sealed_json import FILE_NAME

_BLOCK = 1 << 20  # elements checked at once
ARRAYS = ("tokens", "offsets", "document_bytes", "token_bytes")


class TokenStore:
    """The tokens of a set of documents, read-only; each document ends with one eos.

    Open with ``TokenStore.open``; write with ``lossline.stores.store_writer.write_store`` or
    ``python -m lossline.prepare``.

    Args:
        location: folder or URL.
        manifest: checked manifest.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._tokens = self._open("tokens")

    @classmethod
    def open(
        cls, path: str | Path, *, vocabulary_hash: str | None = None, verify: bool = False
    ) -> TokenStore:
        """Open a token store.

        The checks always cover the hash of the manifest, the size of every file (except at URLs
        that are not ``gs://``), the type and size of every array, and the contents of the small
        arrays.

        Args:
            path: folder, or URL such as ``gs://…``.
            vocabulary_hash: hash of the expected vocabulary; None accepts every vocabulary.
            verify: whether to read all arrays and compare their hashes.

        Raises:
            NoStore: ``path`` contains no store.
            UserError: the store is damaged or changed, or has another vocabulary.
        """
        location = str(path)
        manifest = manifests.read(location, kind="text")
        manifests.check_vocabulary(location, manifest, vocabulary_hash)
        check_arrays(location, manifest, ARRAYS)
        store = cls(location, manifest)
        store._check_contents()
        if verify:
            store.verify()
        return store

    @property
    def num_tokens(self) -> int:
        """Number of tokens, one eos per document included."""
        return self.manifest.tokens

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return self.manifest.documents

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [documents + 1]: first token of each document; the last entry is ``num_tokens``."""
        return self._read_whole("offsets")

    @cached_property
    def document_bytes(self) -> np.ndarray:
        """int64 [documents]: UTF-8 bytes of each document's text."""
        return self._read_whole("document_bytes")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes of each token id; 0 for special tokens."""
        return self._read_whole("token_bytes")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return tokens ``start:stop`` as int32 [stop - start].

        Raises:
            IndexError: the range is outside the store.
            UserError: the tokens are damaged.
        """
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.num_tokens}")
        return arrays.read(self._tokens, start, stop).astype(np.int32)

    def read_many(self, starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """Return ``length`` tokens from each start, read concurrently.

        Returns:
            int32 [len(starts), length].

        Raises:
            UserError: the tokens are damaged.
        """
        return arrays.read_rows(self._tokens, starts, length, dtype=np.int32)

    def document(self, index: int) -> np.ndarray:
        """Return the tokens of one document as int32 [tokens], its eos included.

        Raises:
            IndexError: no such document.
            UserError: the tokens are damaged.
        """
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        return self.read(int(self.offsets[index]), int(self.offsets[index + 1]))

    def verify(self) -> None:
        """Read all arrays and compare their hashes with the manifest.

        Raises:
            UserError: an array is damaged or was changed.
        """
        for name in ARRAYS:
            if arrays.content_sha256(self._open(name)) != self.manifest.arrays[name].sha256:
                raise UserError(
                    f"{self.location}/{name}: contents were changed. Prepare the store again."
                )

    def _check_contents(self) -> None:
        """Check the small arrays in blocks: memory does not grow with the number of documents."""
        manifest = self.manifest
        last, ordered = -1, True
        for block in self._blocks("offsets"):
            steps = np.diff(block, prepend=last)
            ordered &= bool((steps > 0).all() and (last >= 0 or block[0] == 0))
            last = int(block[-1])
        if not ordered or last != manifest.tokens:
            raise UserError(
                f"{self.location}: offsets do not match the {manifest.tokens} tokens. Prepare the "
                "store again."
            )
        text = sum(int(block.sum()) for block in self._blocks("document_bytes"))
        if text != manifest.bytes or self.token_bytes.size != manifest.vocabulary.vocab_size:
            raise UserError(
                f"{self.location}: byte counts do not match the manifest. Prepare the store again."
            )

    def _blocks(self, name: str) -> Iterator[np.ndarray]:
        array, size = self._open(name), self.manifest.arrays[name].size
        for start in range(0, size, _BLOCK):
            yield arrays.read(array, start, min(start + _BLOCK, size))

    def _open(self, name: str) -> Any:
        return arrays.open_array(f"{self.location.rstrip('/')}/{name}", self.manifest.arrays[name])

    def _read_whole(self, name: str) -> np.ndarray:
        return arrays.read(self._open(name), 0, self.manifest.arrays[name].size)


def store_fingerprint(path: str | Path) -> str:
    """Return the fingerprint of the token store at a folder or URL; reads only its manifest.

    Raises:
        NoStore: ``path`` contains no store.
        UserError: the manifest was changed.
    """
    return manifests.read(str(path), kind="text").fingerprint


def check_arrays(location: str, manifest: Manifest, names: Sequence[str]) -> None:
    """Check a manifest and the sizes of its files, on a disk or in a bucket at ``gs://``.

    Args:
        location: folder or URL of the store.
        manifest: manifest of the store.
        names: names of the arrays that the store must have.

    Raises:
        UserError: the manifest lacks an array or does not match its fingerprint, or a file is
            missing or has another size.
    """
    missing = [name for name in names if name not in manifest.arrays]
    if (
        missing
        or manifests.fingerprint(manifest.arrays, manifest.vocabulary) != manifest.fingerprint
    ):
        raise UserError(
            f"{location}/{FILE_NAME}: does not match its arrays. Prepare the store again."
        )
    if "://" not in location or in_bucket(location):
        for name in names:
            arrays.check_files(to_path(location) / name, manifest.arrays[name])
