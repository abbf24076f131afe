"""Find the directory of a run, even if an earlier version of lossline made it.

In earlier versions the identity of a run contained the path of its store, and ``token_selection``,
which no training step read. Such a run is recognized by what its directory recorded
(``RunDirectory.config``): its ``facts.json`` contains the store's fingerprint. The directory keeps
its name, so its ``run_id`` in existing loss tables stays valid.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.options.identity import tree_hash
from lossline.runs.run_directory import RunDirectory


def find_run(root: Path, name: str, identity: Mapping[str, Any]) -> Path:
    """Return the directory below ``root`` of the run with this name and identity.

    Args:
        root: folder of run directories; need not exist.
        name: readable part of the directory's name.
        identity: ``lossline.options.identity.identity`` of the run's options.

    Returns:
        ``root``/``name``-``hash``, or an existing directory with another hash if an earlier version
            of lossline made this run there.
    """
    folder = root / f"{name}-{tree_hash(identity)[:8]}"
    if folder.exists():
        return folder
    for other in sorted(root.glob(f"{glob.escape(name)}-{'[0-9a-f]' * 8}")):
        if _is_of(other, identity):
            return other
    return folder


def _is_of(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Return whether a folder contains this run; a damaged folder gives False, not an error."""
    if not (folder / "config.json").is_file():
        return False
    try:
        return RunDirectory(folder).config == identity
    except UserError:
        return False
