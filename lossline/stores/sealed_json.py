"""JSON files with a hash of themselves: the manifests that complete a folder of arrays.

A manifest is written last, so a folder without one is unfinished. The hash detects edits.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorstore as ts

from lossline.errors import NotMadeYet, UserError
from lossline.files import write_json
from lossline.places import in_bucket, to_path

FILE_NAME = "manifest.json"
_HASH = "manifest_sha256"


class NoStore(NotMadeYet):
    """Raised when a location contains no store."""


@dataclass(frozen=True, kw_only=True)
class SealedJson:
    """A kind of manifest.

    Attributes:
        what: what the folder holds, in words, such as "store".
        version: version of the format; others are refused.
        make: how to make such a folder, a sentence for messages.
        remedy: how to mend a damaged one, a sentence for messages.
    """

    what: str
    version: int
    make: str
    remedy: str

    def write(self, folder: Path, body: Mapping[str, Any]) -> None:
        """Write the manifest; this completes the folder."""
        sealed = {"format": self.version, **body}
        write_json(folder / FILE_NAME, {**sealed, _HASH: sha256(sealed)})

    def read(self, location: str) -> dict[str, Any]:
        """Return the checked body of the manifest at a folder or URL.

        Raises:
            NoStore: the location contains no manifest.
            UserError: the manifest was changed, or has another format.
        """
        try:
            body = json.loads(self._text(location))
            claimed = body.pop(_HASH)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(
                f"{location}/{FILE_NAME}: not the manifest of a {self.what}. {self.remedy}"
            ) from error
        if claimed != sha256(body):
            raise UserError(f"{location}/{FILE_NAME}: changed after it was written. {self.remedy}")
        version = body.pop("format")
        if version != self.version:
            raise UserError(
                f"{location}: {self.what} format {version}, but this lossline reads "
                f"{self.version}. {self.remedy}"
            )
        return body

    def _text(self, location: str) -> str:
        if "://" in location and not in_bucket(location):
            found = ts.KvStore.open(location.rstrip("/") + "/").result().read(FILE_NAME).result()
            if found.state == "missing":
                raise NoStore(f"{location}: no {FILE_NAME} there. {self.make}")
            return found.value.decode(errors="replace")
        folder = to_path(location)
        if not folder.is_dir():
            raise NoStore(f"{location}: no such {self.what}. {self.make}")
        if not (folder / FILE_NAME).is_file():
            raise NoStore(f"{location}: no {FILE_NAME} there. {self.make}")
        return (folder / FILE_NAME).read_text(encoding="utf-8", errors="replace")


def sha256(tree: Any) -> str:
    """Return the SHA-256 (hex) of a JSON tree; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
