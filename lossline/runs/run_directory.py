"""The folder that a training leaves behind, and the rules about who may write in it.

Light on purpose (no JAX): the evaluator's watcher, the loss table and the study read run
directories too.

``config.json`` (what makes the run itself), ``config.gin`` (all options as bindings),
``facts.json`` (the run's columns of the loss table, versions, mesh), ``model.txt`` (every
parameter), ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/<step>/``, ``status.json``, ``lock``.
"""

from __future__ import annotations

import enum
import json
import os
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.files import is_locked, locked, write_json

MANIFEST = "manifest.json"


class RunState(enum.Enum):
    """What a run directory says about itself; a killed run still says "running", see
    ``RunDirectory.is_locked``."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Content of ``status.json``: the state, the last step known to it, and why it is so."""

    state: RunState
    step: int
    message: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that exists. Reads nothing until asked."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDirectory:
        """The run directory at ``path``.

        Raises:
            UserError: there is none.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            what = "is no run directory (no config.json)" if path.exists() else "does not exist"
            raise UserError(
                f"run directory {path} {what}; name a folder that lossline train has written"
            )
        return cls(path)

    @property
    def name(self) -> str:
        """The folder's name: the run_id of the loss table."""
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """Identity of the options that made the run (``lossline.options.identity``), in today's
        form."""
        tree = read_json(self.path / "config.json")
        return _todays_config(tree, self.path) if _made_before_fingerprints(tree) else tree

    @property
    def facts(self) -> dict[str, Any]:
        """The run's facts, named like the columns of the loss table, and what else was known at the
        start."""
        facts = read_json(self.path / "facts.json")
        if _made_before_fingerprints(read_json(self.path / "config.json")):
            facts["token_selection"] = "all"  # whatever was named, every token was trained on
        return facts

    @property
    def status(self) -> RunStatus:
        """What the run says about itself; step 0 and "running" before it has said anything."""
        path = self.path / "status.json"
        if not path.is_file():
            return RunStatus(state=RunState.RUNNING, step=0, message="not started")
        content = read_json(path)
        return RunStatus(**{**content, "state": RunState(content["state"])})

    def write_status(self, status: RunStatus) -> None:
        """Replaces ``status.json`` in one move."""
        write_json(self.path / "status.json", {**asdict(status), "state": status.state.value})

    def checkpoint_steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending. One that is still being written is not
        among them."""
        folder = self.path / "checkpoints"
        if not folder.is_dir():
            return []
        steps = [int(item.name) for item in folder.iterdir() if item.name.isdigit()]
        return sorted(step for step in steps if (folder / str(step) / MANIFEST).is_file())

    def kept_checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints that the schedule asked for: the points of the loss table.

        Leaves out the replaceable ones, which exist only so that an interrupted run loses little.
        """
        folder = self.path / "checkpoints"
        return [s for s in self.checkpoint_steps() if read_json(folder / str(s) / MANIFEST)["kept"]]

    def is_locked(self) -> bool:
        """Return whether a living process writes to this run directory."""
        return is_locked(self.path / "lock")

    def lock(self) -> AbstractContextManager[None]:
        """Hold the right to write.

        Raises:
            UserError: another process holds it.
        """
        return locked(self.path / "lock", self._being_written)

    def _being_written(self, owner: str) -> str:
        return f"run directory {self.path} is being written by process {owner}. Wait or stop it."


def claim(path: Path, config: dict[str, Any]) -> tuple[RunDirectory, bool]:
    """The run directory at ``path`` for the run that ``config`` describes; and whether it had been
    started before.

    Writes nothing: a run that cannot start leaves no trace.

    Raises:
        UserError: the folder belongs to another config (the differing options are named), or is
            something else.
    """
    if (path / "config.json").is_file():
        differing = differences(RunDirectory(path).config, config)
        if differing:
            raise UserError(
                f"run directory {path} belongs to another config: {'; '.join(differing[:3])}; "
                "use another directory or name, or the bindings it was made with"
            )
        return RunDirectory(path), True
    if path.exists() and not path.is_dir():
        raise UserError(f"run directory {path} is a file; use another directory or name")
    if path.is_dir() and any(item.name != "lock" for item in path.iterdir()):
        raise UserError(
            f"run directory {path} is no run directory (no config.json) and not empty; use another "
            f"directory or name"
        )
    return RunDirectory(path), False


def _made_before_fingerprints(config: Any) -> bool:
    """Whether an earlier lossline made the run: its identity held the path of the store, and a
    ``token_selection`` that had no effect."""
    return isinstance(config, dict) and "token_selection" in config and "store" in config


def _todays_config(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The identity of such a run with the store's fingerprint, which its facts recorded."""
    facts = read_json(folder / "facts.json")
    if not isinstance(facts, dict) or "store_fingerprint" not in facts:
        raise UserError(
            f"{folder / 'facts.json'} names no store_fingerprint; the run directory is damaged, "
            "restore the file or train again"
        )
    tree = {name: value for name, value in config.items() if name != "token_selection"}
    return {**tree, "store": facts["store_fingerprint"]}


def differences(there: Any, here: Any, where: str = "") -> list[str]:
    """The leaves in which two JSON trees differ, as "model.width is 64 there, 128 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = list(dict.fromkeys([*there, *here]))
        inner = (
            differences(there.get(key), here.get(key), f"{where}.{key}" if where else key)
            for key in keys
        )
        return [item for items in inner for item in items]
    return [] if there == here else [f"{where} is {_short(there)} there, {_short(here)} here"]


def _short(value: Any) -> str:
    """A value for a message; of a hash, its beginning."""
    is_hash = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"'{value[:12]}…'" if is_hash else repr(value)


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run directory.

    Raises:
        UserError: absent, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing; the run directory is damaged, restore the file or train again"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); restore the file or train again") from None
