"""Origin of a run that continues another run's parameters: ``train.start = @from_run()``."""

from __future__ import annotations

import dataclasses
import glob
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
from flax import nnx

from lossline import models
from lossline.errors import NotMadeYet, UserError
from lossline.options.identity import option_value
from lossline.options.roles import OPTION_PREFIX, Role, fact_of
from lossline.places import to_path
from lossline.runs import checkpoints
from lossline.runs.run_directory import RunDirectory, RunState
from lossline.tables.schema import START
from lossline.vocabularies import VocabularyFacts

# Options that only make fresh parameters, and types: parameters are cast.
_REPLACEABLE = frozenset(
    {"init_std", "dt_min", "dt_max", "decay_min", "decay_max", "param_dtype", "activation_dtype"}
)


@dataclass(frozen=True, kw_only=True)
class FromRun:
    """Gin component: start from another run's parameters, ``train.start = @from_run()``.

    Optimizer state, schedule and data order are fresh. The identity of the new run contains the
    fingerprint of the parameters, not the place or the step that they come from.

    Attributes:
        run: run directory, written by ``lossline.train`` or ``lossline.convert``.
        step: step of the checkpoint. None: the last kept checkpoint of a finished run.
        parameters: fingerprint of the checkpoint's parameters, as in the new run's ``config.gin``.
            None: read from ``run``. If it is given, a run can be named and continued after its
            origin was deleted; other parameters are refused.

    Raises:
        UserError: ``run`` is empty, or ``step`` is below 1.
    """

    run: str
    step: int | None = None
    parameters: str | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise UserError("from_run.run is empty. Give the run directory to start from.")
        if self.step is not None and self.step < 1:
            raise UserError(f"from_run.step = {self.step}: must be at least 1")

    @property
    def identity(self) -> str:
        """Fingerprint of the parameters (``checkpoints.parameters_fingerprint``).

        Raises:
            NotMadeYet: run or checkpoint does not exist yet, and ``parameters`` is not given.
            UserError: the finished run has no such checkpoint, or its manifest is malformed.
        """
        if self.parameters is not None:
            return self.parameters
        return checkpoints.parameters_fingerprint(self.directory, self.checkpoint)

    @property
    def directory(self) -> RunDirectory:
        """The origin's run directory.

        Raises:
            NotMadeYet: it does not exist.
        """
        try:
            return RunDirectory.open(self.run)
        except UserError:
            raise NotMadeYet(
                f"train.start: no run directory {self.run}. Train or convert that run first, or "
                "set from_run.run to another one."
            ) from None

    @property
    def checkpoint(self) -> int:
        """Step of the checkpoint to start from.

        Raises:
            NotMadeYet: the run has not finished, and has not reached the checkpoint.
            UserError: the run has finished without such a checkpoint.
        """
        run = self.directory
        finished = run.status.state is RunState.FINISHED
        steps = run.checkpoint_steps()
        if self.step is None and not finished:
            raise NotMadeYet(
                f"train.start: run {run.path} has not finished, so its last checkpoint is not "
                "known. Finish it, or set from_run.step."
            )
        step = max(run.kept_checkpoint_steps(), default=None) if self.step is None else self.step
        if step in steps:
            return step
        found = ", ".join(map(str, steps)) or "none"
        wanted = "kept checkpoint" if self.step is None else f"checkpoint {self.step}"
        raise (UserError if finished else NotMadeYet)(
            f"train.start: run {run.path} has no {wanted}{'' if finished else ' yet'} (it has: "
            f"{found}). Set from_run.step to one of its checkpoints, or train it further."
        )


class Starting(Protocol):
    """The options of a run that say what it starts from, and where it stands."""

    @property
    def start(self) -> FromRun | None:
        """Origin of the parameters."""
        ...

    @property
    def name(self) -> str:
        """Readable part of the run directory's name."""
        ...

    @property
    def root(self) -> str:
        """Folder of run directories."""
        ...

    @property
    def directory(self) -> str | None:
        """The run directory itself, if it is given."""
        ...


Options = TypeVar("Options", bound=Starting)


def with_known_start(options: Options) -> Options:
    """Return the options with the step and the fingerprint of their origin filled in.

    They are read from the origin. If it was deleted, they are what an existing directory of the run
    recorded: the directory that is given, or one of the same name below the root.

    Raises:
        NotMadeYet: the origin does not exist yet, and no such run has been started.
        UserError: the run would start from itself, or the origin has no such checkpoint.
    """
    start = options.start
    if start is None:
        return options
    if options.directory is not None and _same_place(options.directory, start.run):
        raise UserError(
            f"train.start: the run would start from itself, {start.run}. Give the new run another "
            "train.directory."
        )
    if start.parameters is not None:
        return options
    try:
        known = dataclasses.replace(start, step=start.checkpoint, parameters=start.identity)
    except UserError:
        recorded = set(_recorded(start, options))
        if len(recorded) != 1:
            raise
        (known,) = recorded
    return dataclasses.replace(options, start=known)  # type: ignore[type-var]


def _same_place(one: str, other: str) -> bool:
    return to_path(one).resolve() == to_path(other).resolve()


def _recorded(start: FromRun, options: Starting) -> Iterator[FromRun]:
    """Yield the origins of this name and step that directories of the run recorded."""
    pattern = f"{glob.escape(options.name)}-{'[0-9a-f]' * 8}"
    given = options.directory
    folders = [to_path(given)] if given is not None else sorted(to_path(options.root).glob(pattern))
    for folder in folders:
        try:
            run = RunDirectory.open(folder)
            fingerprint, facts = run.config.get("start"), run.facts
        except (UserError, AttributeError):  # another folder, or a damaged one
            continue
        same_run = facts.get("start_run") == to_path(start.run).resolve().name
        same_step = start.step is None or facts.get("start_step") == start.step
        if fingerprint and same_run and same_step:
            yield dataclasses.replace(start, step=facts["start_step"], parameters=fingerprint)


def check_start(start: FromRun, model: Any, vocabulary: VocabularyFacts) -> None:
    """Check that a run can start from its origin. Every file of the checkpoint is read.

    Args:
        start: origin.
        model: model config of the new run (``lossline.models``).
        vocabulary: vocabulary of its training text.

    Raises:
        NotMadeYet: the run or the checkpoint does not exist yet.
        UserError: the origin has another model or vocabulary or other parameters than expected, or
            the checkpoint is corrupt.
    """
    run, step = start.directory, start.checkpoint
    _check_model(run, model)
    theirs = run.facts.get("vocabulary_hash")
    if theirs != vocabulary.hash:
        raise UserError(
            f"train.start: run {run.path} was trained with vocabulary "
            f"{run.facts.get('tokenizer')} ({str(theirs)[:12]}), but train.store has "
            f"{vocabulary.name} ({vocabulary.hash[:12]}). Prepare the text with the vocabulary of "
            "that run."
        )
    folder = run.path / "checkpoints" / str(step)
    wrong = checkpoints.problem(folder)
    if wrong is not None:
        raise UserError(
            f"train.start: checkpoint {folder} is corrupt ({wrong}). Restore it, or set "
            "from_run.step to another checkpoint."
        )
    found = checkpoints.parameters_fingerprint(run, step)
    if start.parameters not in (None, found):
        raise UserError(
            f"train.start: checkpoint {folder} has parameters {found[:12]}, but "
            f"from_run.parameters = {str(start.parameters)[:12]}…. Restore that checkpoint, or set "
            "from_run.parameters to None."
        )


def _check_model(run: RunDirectory, model: models.ModelConfig) -> None:
    """Check that the origin's parameters fit the model and mean the same in it."""
    theirs = _model_of(run)
    if type(theirs) is not type(model):
        raise UserError(
            f"train.start: run {run.path} has a model {theirs.family}, not {model.family}. Set "
            f"train.model = @{theirs.family}() with its options, or choose another run."
        )
    differing = [
        (item.name, option_value(theirs, item), option_value(model, item))
        for item in dataclasses.fields(model)
        if option_value(theirs, item) != option_value(model, item)
        and not _may_differ(item.name, theirs, model)
    ]
    if differing:
        name, there, here = differing[0]
        fix = ", ".join(f"{model.family}.{name} = {there!r}" for name, there, _ in differing)
        raise UserError(
            f"train.start: the model of run {run.path} has {name} = {there!r}, but "
            f"{model.family}.{name} = {here!r}. Set {fix}, or choose another run."
        )


def _may_differ(name: str, theirs: models.ModelConfig, model: models.ModelConfig) -> bool:
    """Return whether parameters mean the same in two models that differ in this option."""
    if name == "context_length":
        return not theirs.position_params()
    if name == "kv_heads":  # None: as many as heads
        return bool(getattr(theirs, "groups", None) == getattr(model, "groups", None))
    if name == "vocab_multiple":
        return theirs.padded_vocab_size == model.padded_vocab_size
    fact = fact_of(f"{OPTION_PREFIX}model.{name}")
    return name in _REPLACEABLE or (fact is not None and fact.role is Role.NUMERICS)


def _model_of(run: RunDirectory) -> models.ModelConfig:
    config = run.config
    if not isinstance(config, Mapping) or "model" not in config:
        raise UserError(
            f"train.start: {run.path / 'config.json'} contains no model. Restore the file or "
            "choose another run."
        )
    return models.config_from_dict(config["model"])


def start_parameters(start: FromRun, shardings: Any) -> Any:
    """Return the origin's parameters, each read straight onto its devices.

    Args:
        start: origin, checked (``check_start``).
        shardings: placement of every parameter, in the structure of the parameters.

    Returns:
        The parameters in the types in which they are stored.

    Raises:
        UserError: the checkpoint is missing or corrupt.
    """
    run = start.directory
    _, state = models.abstract_state(_model_of(run))
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nnx.to_pure_dict(state),
        shardings,
    )
    return checkpoints.restore_arrays(run, start.checkpoint, abstract)


def start_facts(start: FromRun | None, recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the facts of a run about its origin: the columns ``START`` of the loss table.

    ``start_tokens`` and ``start_flops`` are what the origin was trained on up to its checkpoint,
    its own origins included; None if the origin, or one of its origins, does not record it.

    Args:
        start: origin; None: fresh parameters, and every fact is None.
        recorded: facts of a run that continues from its own checkpoint, which may no longer have
            its origin. None: read the origin.
    """
    if start is None:
        return dict.fromkeys(START)
    if recorded is not None:
        return {name: recorded.get(name) for name in START}
    run, step = start.directory, start.checkpoint
    facts = run.facts
    tokens = _product(step, facts.get("tokens_per_step"))
    flops = _product(tokens, facts.get("flops_per_token"))
    if facts.get("start_run") is not None:
        tokens = _sum(tokens, facts.get("start_tokens"))
        flops = _sum(flops, facts.get("start_flops"))
    return dict(zip(START, (run.name, step, tokens, flops), strict=True))


def _product(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one * other


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other
