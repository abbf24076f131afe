"""The run directory that a training writes, and who may write in it.

This module does not import JAX, because the evaluator's watcher, the loss table and the study also
read run directories.

A run directory contains ``config.json`` (the run's identity), ``config.gin`` (all options as
bindings), ``facts.json`` (the run's columns of the loss table, versions, mesh), ``model.txt``
(table of parameters), ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/<step>/``, ``status.json``
and ``lock``.
"""

from __future__ import annotations

import enum
import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from lossline.errors import UserError
from lossline.files import is_locked, locked, write_json
from lossline.places import to_path

MANIFEST = "manifest.json"
_MEND = "Restore the file, or move the run directory away and train again."
# Files that a training writes before config.json, the mark of a run directory.
_BEFORE_THE_MARK = frozenset({"lock", "model.txt", "config.gin", "facts.json"})


class RunState(enum.Enum):
    """State recorded in ``status.json``.

    A killed run still records "running"; ``RunDirectory.is_locked`` shows whether a process is
    alive.
    """

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Content of ``status.json``: state, last recorded step, and the reason of the state."""

    state: RunState
    step: int
    message: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """An existing run directory. Files are read only when a property or method needs them."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """Return the run directory at ``path``.

        Raises:
            UserError: no run directory exists there.
        """
        path = to_path(path)
        if not (path / "config.json").is_file():
            what = "contains no config.json" if path.exists() else "does not exist"
            raise UserError(
                f"run directory {path} {what}. Give a folder that lossline.train has written."
            )
        return cls(path)

    @property
    def name(self) -> str:
        """Name of the folder, the run_id of the loss table."""
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """Identity of the options that made the run (``lossline.options.identity``).

        The identity of a run of an earlier version is converted to the current form.

        Raises:
            UserError: the file is damaged.
        """
        tree = read_json(self.path / "config.json")
        if not isinstance(tree, dict):
            raise UserError(f"{self.path / 'config.json'} is damaged: it holds no options. {_MEND}")
        return _todays_config(tree, self.path) if _made_before_fingerprints(tree) else tree

    @property
    def facts(self) -> dict[str, Any]:
        """Facts recorded at the start of the run, named like the columns of the loss table.

        Raises:
            UserError: the file is damaged; also when a fact is read that it does not hold.
        """
        facts = _Facts(self.path / "facts.json")
        if _made_before_fingerprints(read_json(self.path / "config.json")):
            facts["token_selection"] = "all"  # every token was trained on, whatever was recorded
        return facts

    @property
    def status(self) -> RunStatus:
        """Recorded status; "running" at step 0 before the first record.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path / "status.json"
        if not path.is_file():
            return RunStatus(state=RunState.RUNNING, step=0, message="not started")
        content = read_json(path)
        try:
            return RunStatus(**{**content, "state": RunState(content["state"])})
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path} is damaged: it holds no status. {_MEND}") from None

    def write_status(self, status: RunStatus) -> None:
        """Replace ``status.json`` atomically."""
        write_json(self.path / "status.json", {**asdict(status), "state": status.state.value})

    def checkpoint_steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending.

        A checkpoint that is still being written is not included.
        """
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            return []
        steps = [int(item.name) for item in folder.iterdir() if item.name.isdigit()]
        return sorted(step for step in steps if (folder / str(step) / MANIFEST).is_file())

    def kept_checkpoint_steps(self) -> list[int]:
        """Return the steps of the kept checkpoints, which are the points of the loss table.

        Replaceable checkpoints are not included.

        Raises:
            UserError: the manifest of a checkpoint is malformed.
        """
        return [step for step in self.checkpoint_steps() if self._is_kept(step)]

    def _is_kept(self, step: int) -> bool:
        folder = self.path / "checkpoints" / str(step)
        manifest = read_manifest(folder)
        if not isinstance(manifest, dict) or "kept" not in manifest:
            raise UserError(
                f"checkpoint {folder} is corrupt: {MANIFEST} is malformed. Delete it or train "
                "again."
            )
        return bool(manifest["kept"])

    def trained_tokens(self, step: int) -> int | None:
        """Return the tokens that the objective had selected at a checkpoint; None: all tokens."""
        return read_manifest(self.path / "checkpoints" / str(step)).get("trained_tokens")

    def is_locked(self) -> bool:
        """Return whether a living process writes to this run directory."""
        return is_locked(self.path / "lock")

    def lock(self) -> AbstractContextManager[None]:
        """Hold the right to write.

        Raises:
            UserError: another process holds the lock.
        """
        return locked(self.path / "lock", self._being_written)

    def _being_written(self, owner: str) -> str:
        return f"run directory {self.path} is being written by process {owner}. Wait or stop it."


class _Facts(dict[str, Any]):
    """The facts of a file; a missing one is a user error."""

    def __init__(self, path: Path) -> None:
        content = read_json(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged: it holds no facts. {_MEND}")
        super().__init__(content)
        self._path = path

    def __missing__(self, name: str) -> NoReturn:
        raise UserError(f"{self._path} is damaged: it does not hold {name}. {_MEND}")


def claim(path: Path, config: dict[str, Any]) -> tuple[RunDirectory, bool]:
    """Return the run directory at ``path`` for the run of ``config``, and whether it exists.

    Writes nothing, so that a run that cannot start leaves no files.

    Raises:
        UserError: the folder belongs to another config (the message names the differences), or is
            not a run directory.
    """
    if (path / "config.json").is_file():
        differing = differences(RunDirectory(path).config, config)
        if differing:
            raise UserError(
                f"run directory {path} belongs to another config: {'; '.join(differing[:3])}. "
                "Use another directory or name, or the bindings it was made with."
            )
        return RunDirectory(path), True
    if path.exists() and not path.is_dir():
        raise UserError(f"run directory {path} is a file. Use another directory or name.")
    if path.is_dir() and not all(_is_of_a_killed_start(item) for item in path.iterdir()):
        raise UserError(
            f"run directory {path} is not empty and contains no config.json. Use another directory "
            f"or name."
        )
    return RunDirectory(path), False


def _is_of_a_killed_start(file: Path) -> bool:
    """Return whether a training that was killed before it wrote config.json left the file."""
    temporary = file.name.startswith(".") and file.name.endswith(".partial")
    return file.name in _BEFORE_THE_MARK or temporary


def _made_before_fingerprints(config: Any) -> bool:
    """Return whether an earlier version of lossline made the run.

    Its identity contained the path of the store, and a ``token_selection`` that had no effect.
    """
    return isinstance(config, dict) and "token_selection" in config and "store" in config


def _todays_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the identity of a run of an earlier version, with the store's fingerprint."""
    facts = read_json(folder / "facts.json")
    if not isinstance(facts, dict) or "store_fingerprint" not in facts:
        raise UserError(
            f"{folder / 'facts.json'} contains no store_fingerprint: the run directory is damaged. "
            f"{_MEND}"
        )
    tree = {name: value for name, value in config.items() if name != "token_selection"}
    return {**tree, "store": facts["store_fingerprint"]}


def differences(there: Any, here: Any, where: str = "") -> list[str]:
    """Return the leaves in which two JSON trees differ, as "model.width was 64 and is now 128"."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = list(dict.fromkeys([*there, *here]))
        inner = (
            differences(there.get(key), here.get(key), f"{where}.{key}" if where else key)
            for key in keys
        )
        return [item for items in inner for item in items]
    return [] if there == here else [f"{where} was {_short(there)} and is now {_short(here)}"]


def _short(value: Any) -> str:
    """Return a value for a message; a hash is shortened to its beginning."""
    is_hash = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"'{value[:12]}…'" if is_hash else repr(value)


def read_manifest(checkpoint: Path) -> Any:
    """Return the content of the manifest of a checkpoint's folder.

    Raises:
        UserError: the file is missing or not JSON.
    """
    return read_json(checkpoint / MANIFEST, mend=f"Delete {checkpoint} or train again.")


def read_json(path: Path, *, mend: str = _MEND) -> Any:
    """Return the content of a JSON file of a run directory.

    Args:
        path: the file.
        mend: end of the message of an error.

    Raises:
        UserError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the run directory is damaged. {mend}") from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}). {mend}") from None
