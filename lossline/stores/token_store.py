"""Token store: one flat array of token ids, the documents' offsets and bytes, and a manifest.
Read-only; no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lossline.errors import UserError
from lossline.stores import arrays, manifests
from lossline.stores.manifests import Manifest

ARRAYS = ("tokens", "offsets", "document_bytes", "token_bytes")


class TokenStore:
    """The tokens of a set of documents: each document's text tokens, then one eos.

    Open with ``TokenStore.open``; write with ``lossline.stores.store_writer.write_store`` or with
    ``python -m lossline.prepare``.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._tokens = self._open("tokens")

    @classmethod
    def open(
        cls, path: str | Path, *, vocabulary_hash: str | None = None, verify: bool = False
    ) -> TokenStore:
        """Opens a store at a folder or a URL (``gs://…``).

        Always checked: the manifest's own hash, every file's length, types and sizes, and the
            contents of the small arrays.

        Args:
            path: folder or URL.
            vocabulary_hash: refuse a store that was made with another vocabulary.
            verify: hash the tokens too (reads everything).

        Raises:
            UserError: no store, a damaged or changed one, or one of another vocabulary.
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
        return self.manifest.tokens

    @property
    def num_documents(self) -> int:
        return self.manifest.documents

    @cached_property
    def offsets(self) -> np.ndarray:
        """int64 [documents + 1]: where documents begin; the last one is ``num_tokens``."""
        return self._read_whole("offsets")

    @cached_property
    def document_bytes(self) -> np.ndarray:
        """int64 [documents]: UTF-8 bytes of each document's text."""
        return self._read_whole("document_bytes")

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 [vocab_size]: UTF-8 bytes that each token id stands for; 0 for specials."""
        return self._read_whole("token_bytes")

    def read(self, start: int, stop: int) -> np.ndarray:
        """Tokens ``start:stop`` as int32."""
        if not 0 <= start <= stop <= self.num_tokens:
            raise IndexError(f"tokens {start}:{stop} of {self.num_tokens}")
        return arrays.read(self._tokens, start, stop).astype(np.int32)

    def read_many(self, starts: Sequence[int] | np.ndarray, length: int) -> np.ndarray:
        """``length`` tokens from every start, as int32 [len(starts), length]; read at once."""
        pending = [self._tokens[int(start) : int(start) + length].read() for start in starts]
        rows = np.empty((len(pending), length), np.int32)
        for row, future in zip(rows, pending, strict=True):
            try:
                row[:] = future.result()
            except ValueError as error:
                raise UserError(
                    f"{self.location}: damaged tokens ({error}); prepare it again"
                ) from error
        return rows

    def document(self, index: int) -> np.ndarray:
        """Tokens of one document as int32, its eos included."""
        if not 0 <= index < self.num_documents:
            raise IndexError(f"document {index} of {self.num_documents}")
        return self.read(int(self.offsets[index]), int(self.offsets[index + 1]))

    def verify(self) -> None:
        """Reads everything and compares it with the manifest.

        Raises:
            UserError: an array does not hold what was written.
        """
        for name in ARRAYS:
            if arrays.content_sha256(self._open(name)) != self.manifest.arrays[name].sha256:
                raise UserError(
                    f"{self.location}/{name}: contents were changed; prepare the store again"
                )

    def _check_contents(self) -> None:
        manifest, offsets = self.manifest, self.offsets
        if offsets[0] != 0 or offsets[-1] != manifest.tokens or (np.diff(offsets) < 1).any():
            raise UserError(
                f"{self.location}: offsets do not cut {manifest.tokens} tokens; prepare it again"
            )
        if (
            int(self.document_bytes.sum()) != manifest.bytes
            or self.token_bytes.size != manifest.vocabulary.vocab_size
        ):
            raise UserError(
                f"{self.location}: the bytes do not add up to the manifest's; prepare it again"
            )

    def _open(self, name: str) -> Any:
        return arrays.open_array(f"{self.location.rstrip('/')}/{name}", self.manifest.arrays[name])

    def _read_whole(self, name: str) -> np.ndarray:
        return arrays.read(self._open(name), 0, self.manifest.arrays[name].size)


def store_fingerprint(path: str | Path) -> str:
    """Fingerprint of the token store at a folder or URL; reads its manifest only.

    Raises:
        NoStore: no store is there.
        UserError: the manifest was changed.
    """
    return manifests.read(str(path), kind="text").fingerprint


def check_arrays(location: str, manifest: Manifest, names: Sequence[str]) -> None:
    """Raises ``UserError`` where a manifest lacks an array or lies, or a local file is short."""
    missing = [name for name in names if name not in manifest.arrays]
    if (
        missing
        or manifests.fingerprint(manifest.arrays, manifest.vocabulary) != manifest.fingerprint
    ):
        raise UserError(
            f"{location}/{manifests.FILE_NAME}: contradicts itself; prepare the store again"
        )
    if "://" not in location:
        for name in names:
            arrays.check_files(Path(location) / name, manifest.arrays[name])
