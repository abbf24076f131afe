"""Options of everything that measures checkpoints, and the devices that they are measured on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import jax

from lossline.errors import UserError
from lossline.evaluation.documents import Layout
from lossline.evaluation.packing import RowLayout
from lossline.evaluation.restoring import RunModel
from lossline.evaluation.windows import LongDocuments, WindowRule
from lossline.places import to_path
from lossline.runs.run_directory import RunDirectory
from lossline.sharding import (
    BATCH_AXES,
    LaunchOptions,
    MeshOptions,
    ProcessGroup,
    make_mesh,
    make_rules,
)
from lossline.sharding.mesh import require_divisible


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Options of everything that runs the model of a run directory.

    Attributes:
        batch_size: rows per call of the model. It does not change results.
        activations: type to compute in, whatever the run was trained in. With float32 (and products
            in full precision) the sums do not depend on the shape of the batch, except for the last
            rounding; on accelerators it takes several times as long as bfloat16. "": the model's
            own type.
        mesh: devices; rows are split over ``data`` and ``fsdp``.
        compilation_cache: folder of compiled programs. Default: .compilation_cache next to the
            first run; "off": none.
    """

    batch_size: int = 16
    activations: str = "float32"
    mesh: MeshOptions = field(default_factory=MeshOptions)
    compilation_cache: str | None = None


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(DeviceOptions):
    """Options that ``lossline.evaluate`` and ``lossline.score`` share.

    Those of ``DeviceOptions``, and these.

    Attributes:
        runs: run directories, or folders of run directories.
        context: tokens of a window. None: the context length of the run's training.
        stride: tokens by which windows move forward in a longer document. None: half the context.
        long_documents: rule for documents longer than the context.
        rows: several texts per row ("packed"), or one ("padded").
        launch: how several processes find each other; the mesh spans all their devices.
    """

    runs: tuple[str, ...]
    context: int | None = None
    stride: int | None = None
    long_documents: LongDocuments = LongDocuments.SLIDE
    rows: RowLayout = RowLayout.PACKED
    launch: LaunchOptions = field(default_factory=LaunchOptions)

    def rule(
        self, facts: Mapping[str, Any], *, long_documents: LongDocuments | None = None
    ) -> WindowRule:
        """Return the rule that cuts documents into windows for a run.

        Args:
            facts: facts of the run.
            long_documents: rule of one set; None: the rule of these options.

        Raises:
            UserError: context or stride are out of range.
        """
        context = int(facts["context_length"]) if self.context is None else self.context
        return WindowRule(
            context=context,
            stride=max(1, context // 2) if self.stride is None else self.stride,
            long_documents=long_documents or self.long_documents,
        )


class Devices:
    """The devices that checkpoints are measured on, and the batches that they compute.

    Args:
        options: options of the verb.
        verb: gin name of these options, for messages.
        rows: how texts share rows.
        group: the processes whose devices the mesh spans. None: this process alone.

    Attributes:
        layout: shape of the batches.

    Raises:
        UserError: the batch does not divide among the devices, or the mesh needs other devices.
    """

    def __init__(
        self,
        options: DeviceOptions,
        *,
        verb: str,
        rows: RowLayout = RowLayout.PACKED,
        group: ProcessGroup | None = None,
    ) -> None:
        if options.batch_size < 1:
            raise UserError(f"{verb}.batch_size = {options.batch_size}: must be at least 1")
        self._activations = options.activations
        self._group = group
        self._mesh = make_mesh(options.mesh)
        self._rules = make_rules(options.mesh.rules)
        groups = math.prod(self._mesh.shape[axis] for axis in BATCH_AXES)
        require_divisible(
            f"{verb}.batch_size",
            options.batch_size,
            "devices along data × fsdp",
            groups,
            devices=self._mesh.size,
        )
        self.layout = Layout(batch_size=options.batch_size, groups=groups, rows=rows)

    def model(self, run: RunDirectory) -> RunModel:
        """Return the model of a run on these devices."""
        return RunModel(
            run,
            activations=self._activations,
            mesh=self._mesh,
            rules=self._rules,
            group=self._group,
        )


def require_runs(runs: Sequence[str], *, verb: str) -> None:
    """Check that a run is named.

    Raises:
        UserError: no run is named.
    """
    if not runs:
        raise UserError(
            f"{verb}.runs is empty. Give a run directory, or a folder of run directories."
        )


def require_equal_options(group: ProcessGroup, options: DeviceOptions) -> None:
    """Check that all processes were started with the same options.

    Raises:
        UserError: an option of one process differs from that of the first process.
    """
    found = {f.name: repr(getattr(options, f.name)) for f in fields(options) if f.name != "launch"}
    group.require_equal(
        found, fix="Start every process with the same command, apart from launch.process_id."
    )


def use_compilation_cache(folder: str | None, *, beside: Path) -> None:
    """Set the cache before the first compilation; JAX reads it only once.

    Args:
        folder: the cache; None: .compilation_cache next to ``beside``; "off": none.
        beside: the first run.
    """
    folder = folder or str(beside.parent / ".compilation_cache")
    if folder != "off":
        jax.config.update("jax_compilation_cache_dir", str(to_path(folder).resolve()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
