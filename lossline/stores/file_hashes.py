"""Hash the files of sources, large ones on an engine; each file once per command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lossline.cluster import Engine
from lossline.corpora.gathering import file_sha256

_HERE = 1 << 28  # bytes that are hashed sooner than processes start


class FileHashes(Mapping[Path, str]):
    """SHA-256 (hex) of files by path; call it, or index it with a path.

    Args:
        engine: engine that hashes large files.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: dict[Path, str] = {}

    def compute(self, paths: Sequence[Path]) -> None:
        """Hash files that are not known yet.

        Raises:
            OSError: a file cannot be read.
        """
        new = [path.absolute() for path in paths if path.absolute() not in self._known]
        if sum(path.stat().st_size for path in new) < _HERE:
            self._known.update(zip(new, map(file_sha256, new), strict=True))
            return
        for index, sha256 in self._engine.run(file_sha256, new):
            self._known[new[index]] = sha256

    def __call__(self, path: Path) -> str:
        return self[path]

    def __getitem__(self, path: Path) -> str:
        return self._known[path.absolute()]

    def __iter__(self) -> Iterator[Path]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)
