"""Checkpoints: Orbax writes the arrays; a manifest marks a complete and undamaged checkpoint.

``checkpoints/<step>/`` contains two Orbax trees, ``params/`` and ``optimizer/``, so that an
evaluator can read only the first. An optimizer without state has no ``optimizer/``.
``manifest.json`` is written last, with the size and checksum of every file. A folder without a
manifest is a save that was killed. A file that does not match its checksum is a corrupt checkpoint;
resuming then falls back to the previous one.

Kept checkpoints (saved at scheduled steps) stay. Replaceable checkpoints (saved at time intervals)
are deleted when a newer checkpoint exists. Only the newest few keep their optimizer state: it is
two thirds of the bytes, and only resuming needs it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from lossline.checksums import checksums
from lossline.errors import UserError
from lossline.files import check_locks, move, remove_folder, write_json
from lossline.places import in_bucket
from lossline.runs.run_directory import MANIFEST, RunDirectory, RunState, read_manifest
from lossline.runs.saved_arrays import check_saved

# Orbax logs every save, and logs the traceback of errors that it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)

_unraisablehook = sys.unraisablehook


def _say_unless_late(unraisable: Any) -> None:
    """Say nothing of what ends after a save has failed, and the failure is raised.

    Orbax ends its event loop at the first array that fails; TensorStore then prints a traceback for
    each of the others, whose answers find no loop.
    """
    late = isinstance(unraisable.exc_value, RuntimeError)
    if not (late and str(unraisable.exc_value) == "Event loop is closed"):
        _unraisablehook(unraisable)


sys.unraisablehook = _say_unless_late

PARTS = ("params", "optimizer")


def parts_of(state: dict[str, Any]) -> tuple[str, ...]:
    """Return the parts of a training state (or of its shapes) that contain arrays.

    A checkpoint must contain these parts to be resumed. SGD without momentum has no ``optimizer``.
    """
    return tuple(part for part in PARTS if jax.tree.leaves(state[part]))


class CheckpointWriter:
    """Write the checkpoints of one run, one at a time, in the background."""

    def __init__(self, run: RunDirectory, *, data: str, optimizer_states: int = 2) -> None:
        """Start Orbax.

        Args:
            run: run directory, locked by this process.
            data: fingerprint of the training data, recorded in every manifest.
            optimizer_states: number of newest checkpoints that keep their optimizer state.
        """
        self._folder = (run.path / "checkpoints").resolve()  # Orbax needs an absolute path
        self._run = run
        self._data = data
        self._optimizer_states = optimizer_states
        self._orbax = ocp.AsyncCheckpointer(
            ocp.CompositeCheckpointHandler(
                **{part: ocp.StandardCheckpointHandler() for part in PARTS}
            )
        )
        self._parts: tuple[str, ...] = PARTS  # parts of the state being saved
        self._finishing: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, step: int, state: dict[str, Any], *, kept: bool, trained_tokens: int | None = None
    ) -> None:
        """Start to save ``state`` after ``step`` updates; return when the state may be overwritten.

        Waits for the previous save, and raises the error of that save if it failed.

        Args:
            step: number of updates.
            state: training state.
            kept: whether the checkpoint stays when newer ones exist.
            trained_tokens: tokens that the objective has selected so far. None: all.
        """
        self.wait()
        target = self._folder / str(step)
        if jax.process_index() == 0 and target.exists():
            remove(target)  # this step was saved before a fallback to an older step; same content
        check_locks(target)
        self._parts = parts_of(state)
        items = {part: ocp.args.StandardSave(state[part]) for part in self._parts}
        self._orbax.save(str(target), args=ocp.args.Composite(**items))
        self._finishing = threading.Thread(
            target=self._finish, args=(step, kept, trained_tokens), name=f"checkpoint {step}"
        )
        self._finishing.start()

    def wait(self) -> None:
        """Wait for the current save; raise its error if it failed."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Wait for the current save, then stop Orbax's threads."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def _finish(self, step: int, kept: bool, trained_tokens: int | None) -> None:
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                write_manifest(
                    self._folder / str(step),
                    parts=self._parts,
                    step=step,
                    kept=kept,
                    data=self._data,
                    trained_tokens=trained_tokens,
                )
                self._retire(step)
        except BaseException as error:
            self._error = error  # this is a thread; wait() raises it in the training loop

    def _retire(self, newest: int) -> None:
        """Delete replaceable checkpoints before ``newest`` and old optimizer states."""
        full: list[int] = []
        for step in reversed(self._run.checkpoint_steps()):
            folder = self._folder / str(step)
            manifest = read_manifest(folder)
            # ``full`` is empty until a newer checkpoint can be resumed; keep older ones until then.
            if step < newest and not manifest["kept"] and full:
                remove(folder)
            elif _holds(folder, self._parts):
                full.append(step)
                if len(full) > self._optimizer_states and "optimizer" in self._parts:
                    drop_optimizer(folder)


def write_manifest(
    folder: Path,
    *,
    parts: tuple[str, ...],
    step: int,
    kept: bool,
    data: str,
    trained_tokens: int | None = None,
) -> None:
    """Write the manifest, which makes the checkpoint complete.

    Raises:
        UserError: a bucket has lost what was saved.
    """
    known = {"step": step, "kept": kept, "data": data}
    known |= {} if trained_tokens is None else {"trained_tokens": trained_tokens}
    files = {name: value for name, value in checksums(folder).items() if name != MANIFEST}
    if in_bucket(folder):
        check_saved(folder, parts, files)
    write_json(folder / MANIFEST, {**known, "files": files})


def parameters_fingerprint(run: RunDirectory, step: int) -> str:
    """Return the SHA-256 (hex) of a checkpoint's model: its shape and its parameters' files.

    It reads only the manifest, which holds a hash of every file.

    Raises:
        UserError: the checkpoint has no manifest, or a malformed one.
    """
    folder = run.path / "checkpoints" / str(step)
    manifest = read_manifest(folder)
    try:
        files = {n: v for n, v in manifest["files"].items() if n.startswith("params/")}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"checkpoint {folder} is corrupt: {MANIFEST} is malformed. Delete it or train again."
        ) from error
    if not files:
        raise UserError(
            f"checkpoint {folder} is corrupt: {MANIFEST} lists no parameters. Delete it or train "
            "again."
        )
    content = json.dumps([run.config["model"], files], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def drop_optimizer(folder: Path) -> None:
    """Delete the optimizer state of a complete checkpoint.

    The manifest is changed first, so the checkpoint stays valid if the process is killed in
    between.
    """
    manifest = read_manifest(folder)
    files = {
        name: value
        for name, value in manifest["files"].items()
        if not name.startswith("optimizer/")
    }
    write_json(folder / MANIFEST, {**manifest, "files": files})
    remove_folder(folder / "optimizer")


def remove(folder: Path) -> None:
    """Delete a checkpoint, the manifest first, so that a partial folder never counts."""
    (folder / MANIFEST).unlink(missing_ok=True)
    remove_folder(folder)


def problem(folder: Path, *, part: tuple[int, int] = (0, 1)) -> str | None:
    """Return what is wrong with the checkpoint in ``folder``, or None if it is undamaged.

    Args:
        folder: folder of the checkpoint.
        part: (i, n): read only every n-th file from file i on, because n processes share the work.
    """
    try:
        manifest = read_manifest(folder)
        expected = {name: tuple(value) for name, value in manifest["files"].items()}
    except UserError as error:
        return str(error)
    except (KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is malformed"
    expected = {name: expected[name] for name in sorted(expected)[part[0] :: part[1]]}
    found = checksums(folder, like=expected)
    missing = [name for name in expected if name not in found]
    if missing:
        return f"{missing[0]} is missing"
    changed = [name for name in expected if found[name] != expected[name]]
    return f"{changed[0]} has changed since it was written" if changed else None


def newest_intact(
    run: RunDirectory, *, parts: tuple[str, ...] = PARTS, say: Callable[[str], None]
) -> int | None:
    """Return the step of the newest checkpoint that can be resumed; move corrupt ones aside.

    Args:
        run: run directory.
        parts: parts that the checkpoint must contain (``parts_of``).
        say: called with one line for each corrupt checkpoint.

    Returns:
        Step, or None if no checkpoint can be resumed.
    """
    folder = run.path / "checkpoints"
    for step in reversed(run.checkpoint_steps()):
        wrong = problem(folder / str(step))
        if wrong is not None:
            say(
                f"checkpoint {folder / str(step)} is corrupt ({wrong}); falling back to the "
                f"previous one"
            )
            _set_aside(folder / str(step))
        elif _holds(folder / str(step), parts):  # old kept checkpoints have no optimizer state
            return step
    return None


def _holds(folder: Path, parts: tuple[str, ...]) -> bool:
    return all((folder / part).exists() for part in parts)


def clear_unsealed(run: RunDirectory) -> None:
    """Delete what killed saves left; call it only while holding the run's lock."""
    folder = run.path / "checkpoints"
    if not folder.is_dir():
        return
    for item in folder.iterdir():
        torn = item.name.isdigit() and not (item / MANIFEST).is_file()
        if (torn or re.match(r"\d+\.orbax-checkpoint-tmp", item.name)) and item.is_dir():
            remove_folder(item)


def restore_state(
    run: RunDirectory, step: int, abstract: dict[str, Any], *, data: str
) -> dict[str, Any]:
    """Return the whole training state after ``step`` updates, placed as in ``abstract`` (any mesh).

    Raises:
        UserError: the checkpoint was trained on other data.
    """
    folder = (run.path / "checkpoints" / str(step)).resolve()
    there = read_manifest(folder)["data"]
    if there != data:
        raise UserError(
            f"checkpoint {folder} was trained on data with fingerprint {there[:12]}, but the store "
            f"now has {data[:12]}. Restore that store, or train into another directory."
        )
    restored = {part: _restore(folder / part, abstract[part]) for part in parts_of(abstract)}
    return {**abstract, **restored}


def restore_arrays(
    run: RunDirectory, step: int, abstract: Any, *, part: tuple[int, int] = (0, 1)
) -> Any:
    """Return the parameters of a checkpoint, in the structure and placement of ``abstract``.

    Args:
        run: run directory.
        step: step of the checkpoint.
        abstract: shapes and shardings of the parameters.
        part: files to check, as in ``problem``.

    Raises:
        UserError: no complete checkpoint of this step exists, or it is corrupt.
    """
    folder = (run.path / "checkpoints" / str(step)).resolve()
    steps = run.checkpoint_steps()
    if not steps:
        raise UserError(
            f"run {run.path} has no complete checkpoint yet. Train until its first one."
        )
    if step not in steps:
        raise UserError(
            f"run {run.path} has no checkpoint {step}. Choose one of {', '.join(map(str, steps))}."
        )
    wrong = problem(folder, part=part)
    if wrong is not None:
        again = step == steps[-1] and _continues(run)
        raise UserError(
            f"checkpoint {folder} is corrupt: {wrong}. "
            + (
                "Resume the training to write it again."
                if again
                else "Choose another step, or make the run again in another directory."
            )
        )
    try:
        return _restore(folder / "params", abstract)
    except Exception as error:
        if part[1] == 1:
            raise
        # A damaged file that another process checks.
        raise UserError(f"checkpoint {folder}: {type(error).__name__}: {error}") from error


def _continues(run: RunDirectory) -> bool:
    """Return whether a training would continue, from its newest intact checkpoint."""
    try:
        return run.status.state is not RunState.FINISHED
    except UserError:  # the status is damaged too
        return False


def _restore(folder: Path, abstract: Any) -> Any:
    # Each process reads its shards by itself: Orbax would wait for the others with a program on
    # the devices, which must not run beside those of another thread.
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
        return orbax.restore(str(folder), args=ocp.args.StandardRestore(abstract))


def _set_aside(folder: Path) -> None:
    number = 0
    while (aside := folder.with_name(f"{folder.name}.corrupt-{number}")).exists():
        number += 1
    move(folder, aside)
