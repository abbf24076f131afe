"""Options of a training: one frozen tree, built by gin or in Python."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lossline.batches.mixture import Mixture, store_identity
from lossline.errors import UserError
from lossline.objectives.options import Selective
from lossline.options.identity import identity
from lossline.places import to_path
from lossline.runs.earlier_runs import find_run
from lossline.runs.origin import FromRun
from lossline.seeds import check_seed
from lossline.sharding import LaunchOptions, MeshOptions
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.optimizer import AdamW, Optimizer
from lossline.training.schedule import CosineSchedule, Schedule


class Documents(enum.Enum):
    """Whether documents in one training window can attend to each other."""

    JOINED = "joined"  # language modeling over the stream of documents
    SEPARATE = "separate"  # attention and recurrent state end with each document


class ModelConfig(Protocol):
    """Interface of a model config (``lossline.models``) for training."""

    @property
    def family(self) -> str:
        """Name of the architecture: the run's fact "architecture"."""
        ...

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        ...

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        ...

    @property
    def context_length(self) -> int:
        """Largest number of positions."""
        ...

    def num_params(self) -> Any:
        """Return the parameter counts."""
        ...

    def flops_per_token(self, context_length: int) -> float:
        """Return training FLOPs per token, attention over all pairs of positions."""
        ...

    def causal_flops_per_token(self, context_length: int) -> float:
        """Return training FLOPs per token, attention to earlier positions only."""
        ...


def _elsewhere(default: Any = None, **kwargs: Any) -> Any:
    """Return a field that is not part of the run's identity."""
    return field(default=default, metadata={"identity": False}, **kwargs)


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Output of a training while it runs.

    Attributes:
        every: steps between rows of metrics.jsonl and TensorBoard.
        tensorboard: whether to write TensorBoard events.
        seconds: seconds between progress lines if the output is not a terminal.
    """

    every: int = 10
    tensorboard: bool = True
    seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UserError(f"log.every = {self.every}: must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A training run.

    Options that define the experiment are hashed into the run's name; output paths, mesh and
    logging are not. Token stores enter the hash by their fingerprints, not by their paths.

    Attributes:
        name: readable part of the run directory's name.
        model: model config, such as ``@llama()``.
        store: folder (or URL) of the token store, or a mixture of several stores, ``@mixture()``.
        batch_size: sequences per step, over all devices.
        steps: number of updates. Bind exactly one of ``steps`` and ``tokens``.
        tokens: number of target tokens, rounded up to whole steps.
        context_length: tokens per sequence. Default: the model's.
        documents: "joined" or "separate".
        start: origin of the parameters, ``@from_run()``. Default: fresh parameters.
        seed: seed of the parameters, and of the data order unless ``data_seed`` is given; from 0 to
            2^63 - 1, all bits are used.
        data_seed: seed of the data order.
        microbatches: number of parts into which the step splits the batch, to save memory.
        optimizer: ``@adamw()``, ``@adam()`` or ``@sgd()``.
        schedule: ``@cosine()``, ``@wsd()`` or ``@constant_rate()``.
        z_loss: coefficient of logsumexp².
        objective: None: all targets; or ``@selective()``: a share of them.
        checkpoints: when to save checkpoints.
        root: folder of run directories.
        directory: the run directory itself, instead of ``root``/``name``-hash.
        mesh: devices along each axis.
        launch: how several processes find each other.
        cross_entropy: implementation in ``lossline.ops.cross_entropy``.
        log: metrics and progress.
        profile_steps: "first:last", both included: write a profiler trace of these steps to
            ``profile/``.
        compilation_cache: folder of compiled programs. Default: ``root``/.compilation_cache; "off":
            none.
        dry_run: say what the training costs, and stop.
    """

    name: str = _elsewhere("run")
    model: ModelConfig
    store: str | Mixture = field(metadata={"identity": store_identity})
    batch_size: int
    steps: int | None = None
    tokens: int | None = None
    context_length: int | None = None
    documents: Documents = Documents.JOINED
    start: FromRun | None = field(default=None, metadata={"identity": "unless None"})
    seed: int = 0
    data_seed: int | None = None
    microbatches: int = 1
    optimizer: Optimizer = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=CosineSchedule)
    z_loss: float = 0.0
    objective: Selective | None = field(default=None, metadata={"identity": "unless None"})
    checkpoints: CheckpointOptions = field(default_factory=CheckpointOptions)
    root: str = _elsewhere("runs")
    directory: str | None = _elsewhere()
    mesh: MeshOptions = field(default_factory=MeshOptions, metadata={"identity": False})
    launch: LaunchOptions = field(default_factory=LaunchOptions, metadata={"identity": False})
    cross_entropy: str = "chunked"
    log: LogOptions = field(default_factory=LogOptions, metadata={"identity": False})
    profile_steps: str | None = _elsewhere()
    compilation_cache: str | None = _elsewhere()
    dry_run: bool = _elsewhere(False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "microbatches", "steps", "tokens", "context_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"train.{name} = {value}: must be at least 1")
        check_seed(self.seed, "train.seed")
        if self.data_seed is not None:
            check_seed(self.data_seed, "train.data_seed")
        if (self.steps is None) == (self.tokens is None):
            raise UserError(
                "train.steps and train.tokens: exactly one must be bound. Bind one and set the "
                "other to None."
            )
        if not self.name or "/" in self.name:
            raise UserError(f"train.name = {self.name!r}: must be a folder name without '/'")
        for name in ("root", "directory", "compilation_cache"):
            place = getattr(self, name)
            if place is not None:
                to_path(place, f"train.{name}")
        if self.length > self.model.context_length:
            raise UserError(
                f"train.context_length = {self.length} is more than the model's context_length "
                f"{self.model.context_length}. Increase the model's or decrease train's."
            )
        self.checkpoints.kept_steps(self.total_steps)
        _ = self.profiled_steps  # raises now if the range is malformed

    @property
    def length(self) -> int:
        """Tokens per sequence."""
        return self.model.context_length if self.context_length is None else self.context_length

    @property
    def order_seed(self) -> int:
        """Seed of the data order."""
        return self.seed if self.data_seed is None else self.data_seed

    @property
    def tokens_per_step(self) -> int:
        """Target tokens per update."""
        return self.batch_size * self.length

    @property
    def total_steps(self) -> int:
        """Number of updates of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // self.tokens_per_step)

    @property
    def total_tokens(self) -> int:
        """Number of target tokens of the whole run."""
        return self.total_steps * self.tokens_per_step

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token at this context length.

        Counts the matrix products of the forward and backward pass, attention over all pairs of
        positions.
        """
        return float(self.model.flops_per_token(self.length))

    @property
    def causal_flops_per_token(self) -> float:
        """As ``flops_per_token``, without attention to later positions."""
        return float(self.model.causal_flops_per_token(self.length))

    @property
    def folder(self) -> Path:
        """Run directory: ``directory``, or the folder of this run below ``root``.

        Raises:
            NotMadeYet: the store or the origin does not exist yet, so the run has no identity.
        """
        if self.directory is not None:
            return to_path(self.directory)
        return find_run(to_path(self.root), self.name, identity(self))

    @property
    def cache_folder(self) -> Path | None:
        """Folder of compiled programs; None for no cache."""
        if self.compilation_cache == "off":
            return None
        if self.compilation_cache is not None:
            return to_path(self.compilation_cache)
        root = to_path(self.root) if self.directory is None else to_path(self.directory).parent
        return root / ".compilation_cache"

    @property
    def profiled_steps(self) -> tuple[int, int] | None:
        """First and last profiled step, counted from 1; None for no profile.

        Raises:
            UserError: ``profile_steps`` is not a range, or goes beyond the run.
        """
        if self.profile_steps is None:
            return None
        first, colon, last = self.profile_steps.partition(":")
        if not (first.isdigit() and (last or first).isdigit() and bool(colon) == bool(last)):
            raise UserError(
                f"train.profile_steps = {self.profile_steps!r}: must be first:last, such as 10:12"
            )
        span = int(first), int(last or first)
        if not 1 <= span[0] <= span[1]:
            raise UserError(
                f"train.profile_steps = {self.profile_steps!r}: first must be at least 1, and "
                "last not before first"
            )
        if span[1] > self.total_steps:
            raise UserError(
                f"train.profile_steps = {self.profile_steps!r}: the run has only steps 1 to "
                f"{self.total_steps}. Choose steps in this range."
            )
        return span
