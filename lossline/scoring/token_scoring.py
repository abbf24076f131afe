"""Implementation of ``python -m lossline.score --tokens``: a reference on every token of a store.

The windows are those of training, read in order. Finished parts are kept in ``<out>.partial``, so
that a killed scoring continues; the folder gets its name when it is complete.

With several processes, the first one holds the folder: it says which parts are missing and writes
them. The others compute their rows of every batch.
"""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from lossline.batches.plans import Windows
from lossline.cluster import connect
from lossline.cluster.connecting import LOCAL, check
from lossline.errors import UserError
from lossline.evaluation.options import (
    DeviceOptions,
    Devices,
    require_equal_options,
    use_compilation_cache,
)
from lossline.evaluation.progress import EvaluationProgress
from lossline.evaluation.restoring import CheckpointUnreadable, MeasurementFailed
from lossline.evaluation.token_values import Rows, TokenMeasurer
from lossline.files import building
from lossline.places import local_path, to_path
from lossline.runs.checkpoints import parameters_fingerprint
from lossline.runs.run_directory import RunDirectory
from lossline.scoring.cluster_shards import everywhere
from lossline.scoring.score_parts import ScoreParts, part_ranges
from lossline.sharding import LaunchOptions, ProcessGroup, joined
from lossline.stores import arrays
from lossline.stores.sealed_json import NoStore
from lossline.stores.token_scores import (
    DTYPE,
    ReferenceScore,
    ScoreManifest,
    ScoreSource,
    TokenScores,
    write_manifest,
)
from lossline.stores.token_store import TokenStore
from lossline.training.options import Documents

_LAST = "last"


@dataclass(frozen=True, kw_only=True)
class TokenScoreOptions(DeviceOptions):
    """Options of ``lossline.score --tokens``: those of ``DeviceOptions``, and these.

    Attributes:
        run: run directory of the reference model, also one that lossline.convert made.
        stores: token stores to score, each into a folder of its own.
        step: "last": the last kept checkpoint of the run; a number: this checkpoint.
        context_length: targets per window, as in the training that will use the scores. None: the
            context length of the reference's training.
        documents: "joined" or "separate", as in the training that will use the scores. None: as
            the reference was trained ("joined" for a converted model).
        quantities: what to keep for each token: "nats", "entropy" or both.
        out: folder to write; only for one store. Default: beside the store,
            ``<store>.token_scores/<run_id>-step<step>-<documents><context_length>``.
        part_tokens: tokens after which finished work is kept on disk. Default: a few seconds of
            work of a small model on one core.
        launch: how several processes find each other; the mesh spans all their devices.
        cluster: "local": the devices of this process, or of those of ``launch``; the address of a
            Dask scheduler: the devices of its workers, each with a model of its own. They must see
            run, stores and ``out``.
    """

    run: str
    stores: tuple[str, ...]
    step: int | str = _LAST
    context_length: int | None = None
    documents: Documents | None = None
    quantities: tuple[ReferenceScore, ...] = (ReferenceScore.NATS,)
    out: str | None = None
    part_tokens: int = 1 << 18
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    cluster: str = LOCAL

    def __post_init__(self) -> None:
        check(self.cluster)
        if not self.stores:
            raise UserError("token_scores.stores is empty. Give the folder of a token store.")
        if self.out is not None and len(self.stores) > 1:
            raise UserError(
                f"token_scores.out = {self.out}: is one folder, but {len(self.stores)} stores are "
                "given. Score one store per call, or leave out token_scores.out."
            )
        if not self.quantities or set(self.quantities) - set(ReferenceScore):
            raise UserError(
                f"token_scores.quantities = {tuple(map(str, self.quantities))}: give 'nats', "
                "'entropy' or both"
            )
        if self.step != _LAST and (isinstance(self.step, str) or self.step < 0):
            raise UserError(
                f"token_scores.step = {self.step!r}: give 'last' or the step of a checkpoint"
            )
        for name, value in (
            ("context_length", self.context_length),
            ("part_tokens", self.part_tokens),
        ):
            if value is not None and value < 1:
                raise UserError(f"token_scores.{name} = {value}: must be at least 1")


def score_tokens(options: TokenScoreOptions) -> list[TokenScores]:
    """Score every token of the stores that is not scored yet.

    Returns:
        The scores of each store; nothing in other processes than the first.

    Raises:
        UserError: the run, its checkpoint or a store is missing or damaged, a store has another
            vocabulary, the model does not allow the context length, an output folder contains
            something else (all raised before anything is computed), or the model's outputs are not
            finite.
    """
    with joined(options.launch, verb="score --tokens") as group:
        with group.agreed():
            scorer = TokenScorer(options, group=group)
        return scorer.run()


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One store to score."""

    store: TokenStore
    source: ScoreSource
    out: Path


class TokenScorer:
    """The reference and the stores of one call of ``lossline.score --tokens``.

    Args:
        options: options.
        progress: progress line.
        group: the processes that score together. None: this process alone.

    Raises:
        UserError: an option is wrong, or the run does not exist.
    """

    def __init__(
        self,
        options: TokenScoreOptions,
        *,
        progress: EvaluationProgress | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        self._options = options
        self._group = group or ProcessGroup()
        if options.cluster != LOCAL and self._group.count > 1:
            raise UserError(
                "token_scores.cluster: workers of a cluster and several processes of a pod at "
                "once. Give one of them."
            )
        self._run = RunDirectory.open(options.run)
        self._facts = self._run.facts
        self._devices = Devices(options, verb="token_scores", group=group)
        self._model = self._devices.model(self._run)
        self._measurer = TokenMeasurer(self._model, batch_size=options.batch_size)
        self._progress = progress or EvaluationProgress(
            label="score --tokens", quiet=not self._group.first
        )
        self._state: Any = None

    def run(self) -> list[TokenScores]:
        """Score what is not scored yet, and return the scores of each store."""
        require_equal_options(self._group, self._options)
        use_compilation_cache(self._options.compilation_cache, beside=self._run.path)
        with self._group.agreed():
            step = self._step()
            jobs = [self._job(location, step) for location in self._options.stores]
        self._group.require_equal(
            {f"what is scored of {job.store.location}": job.source.key()[:12] for job in jobs},
            fix="Give all hosts the same run and stores.",
        )
        # Asks all before anything is written.
        unfinished = self._group.first_says(lambda: any([_finished(job) is None for job in jobs]))
        if unfinished and self._options.cluster == LOCAL:
            self._state = self._loaded(step)
        done = [self._scored(job) for job in jobs]
        return [scores for scores in done if scores is not None]

    def _step(self) -> int:
        wanted = self._options.step
        if isinstance(wanted, int):
            steps = self._run.checkpoint_steps()
            if wanted in steps:
                return wanted
            found = f"Choose one of {', '.join(map(str, steps))}." if steps else "It has none yet."
            raise UserError(f"run {self._run.path} has no checkpoint {wanted}. {found}")
        if steps := self._run.kept_checkpoint_steps():
            return steps[-1]
        raise UserError(f"run {self._run.path} has no kept checkpoint. Train until its first one.")

    def _job(self, location: str, step: int) -> _Job:
        options, facts = self._options, self._facts
        length = options.context_length or int(facts["context_length"])
        self._measurer.require_length(length, where="token_scores.context_length")
        trained = Documents(self._run.config.get("documents") or Documents.JOINED)
        documents = options.documents or trained
        store = TokenStore.open(location, vocabulary_hash=facts["vocabulary_hash"])
        if store.num_tokens < length:
            raise UserError(
                f"{location}: {store.num_tokens} tokens are fewer than token_scores.context_length "
                f"= {length}. Give a shorter context, or a larger store."
            )
        source = ScoreSource(
            store_fingerprint=store.manifest.fingerprint,
            vocabulary_hash=store.manifest.vocabulary.hash,
            tokens=store.num_tokens,
            run_id=str(facts["run_id"]),
            step=step,
            parameters=parameters_fingerprint(self._run, step),
            context_length=length,
            documents=documents.value,
            quantities=tuple(q.value for q in ReferenceScore if q in options.quantities),
            activations=self._model.config.activation_dtype,
        )
        return _Job(store=store, source=source, out=self._out(location, source))

    def _out(self, location: str, source: ScoreSource) -> Path:
        if self._options.out is not None:
            return local_path(self._options.out, "token_scores.out")
        if "://" in location:
            raise UserError(
                f"{location}: is a URL, but scores are written to a file system. Give "
                "token_scores.out."
            )
        store = Path(location).resolve()
        name = f"{source.run_id}-step{source.step}-{source.documents}{source.context_length}"
        return store.with_name(f"{store.name}.token_scores") / name

    def _scored(self, job: _Job) -> TokenScores | None:
        """Return the scores of a store; None in other processes than the first."""
        with ExitStack() as stack:
            partial = job.out
            with self._group.agreed():
                if self._group.first:
                    stack.enter_context(_no_empty_folder(job.out.parent))
                    partial = stack.enter_context(building(job.out))
            if self._group.first_says(lambda: _finished(job) is not None):
                self._progress.say(f"score: {job.out}: finished earlier, nothing to do")
                return _finished(job) if self._group.first else None
            parts = ScoreParts(
                partial / "parts" / job.source.key()[:16],
                job.source.quantities,
                job.source.context_length,
            )
            ranges = self._measure(job, parts)
            if not self._group.first:
                return None
            manifest = _assembled(job, partial, parts, ranges, self._cost(job.source))
            shutil.rmtree(partial / "parts")
            write_manifest(partial, manifest)
            os.replace(partial, job.out)
        means = ", ".join(f"mean {name} {mean:.4f}" for name, mean in manifest.means.items())
        self._progress.say(
            f"score: {job.out}: {job.source.scored_tokens:,} tokens by {job.source.reference}; "
            f"{means}"
        )
        return TokenScores.open(job.out)

    def _measure(self, job: _Job, parts: ScoreParts) -> list[range]:
        """Compute and keep the parts that are missing; return the ranges of all parts."""
        source, batch_size = job.source, self._options.batch_size
        windows = Windows(job.store, context_length=source.context_length, seed=0)
        rows = -(-self._options.part_tokens // source.context_length)
        ranges = part_ranges(windows.count, rows=rows, batch_size=batch_size)
        unfinished = self._group.first_says(
            lambda: [number for number, part in enumerate(ranges) if not parts.has(part)]
        )
        missing = [ranges[number] for number in unfinished]
        if not missing:
            return ranges
        self._progress.expect(sum(map(len, missing)) * source.context_length)
        if self._options.cluster == LOCAL:
            self._compute(job, parts, windows, missing)
        else:
            self._compute_on_cluster(job, parts, missing)
        return ranges

    def _compute_on_cluster(self, job: _Job, parts: ScoreParts, missing: Sequence[range]) -> None:
        """Compute and keep parts by the workers of a cluster."""
        alone = replace(
            self._options,
            run=everywhere(str(self._run.path)),
            stores=(everywhere(job.store.location),),
            step=job.source.step,
            out=everywhere(str(job.out)),
            cluster=LOCAL,
        )
        units = [
            _PartsUnit(
                options=alone,
                parts=replace(parts, folder=parts.folder.absolute()),
                ranges=tuple(missing[start : start + _PARTS]),
            )
            for start in range(0, len(missing), _PARTS)
        ]
        with connect(self._options.cluster, say=self._progress.say) as engine:
            self._progress.start()
            for number, _ in engine.run(_compute_parts, units, what="units of parts"):
                done = sum(map(len, units[number].ranges)) * job.source.context_length
                self._progress.advance(done, job.source.reference)

    def compute(self, parts: ScoreParts, ranges: Sequence[range]) -> None:
        """Compute and keep parts of the only store, in a worker of a cluster."""
        [location] = self._options.stores
        assert isinstance(self._options.step, int)
        if self._state is None:
            self._state = self._loaded(self._options.step)
        job = self._job(location, self._options.step)
        windows = Windows(job.store, context_length=job.source.context_length, seed=0)
        self._compute(job, parts, windows, ranges)

    def _compute(
        self, job: _Job, parts: ScoreParts, windows: Windows, missing: Sequence[range]
    ) -> None:
        source, batch_size = job.source, self._options.batch_size
        batches = [
            range(start, min(start + batch_size, part.stop))
            for part in missing
            for start in range(part.start, part.stop, batch_size)
        ]
        separate = source.documents == Documents.SEPARATE.value
        self._progress.start()
        measured = self._measurer.stream(
            self._state, _rows(windows, batches, separate=separate), source.quantities
        )
        for part in missing:
            with self._group.agreed():
                scores = self._part(part, measured, source)
            if self._group.first:
                parts.keep(part, scores)
            self._progress.advance(len(part) * source.context_length, source.reference)

    def _part(
        self, part: range, measured: Iterator[dict[str, np.ndarray]], source: ScoreSource
    ) -> dict[str, np.ndarray]:
        """Return the scores of a part by quantity, of its batches in ``measured``."""
        try:
            held = [next(measured) for _ in range(part.start, part.stop, self._options.batch_size)]
        except MeasurementFailed as error:
            raise UserError(
                f"{self._run.path} step {source.step}: cannot be measured: "
                f"{' '.join(str(error).split())}"
            ) from error
        return {name: _narrowed(name, held, source) for name in source.quantities}

    def _loaded(self, step: int) -> Any:
        """Return the parameters of the checkpoint."""
        [(_, state)] = self._model.states([step])
        with self._group.agreed():
            if isinstance(state, CheckpointUnreadable):
                raise UserError(str(state))
        return state

    def _cost(self, source: ScoreSource) -> dict[str, Any]:
        """Return the fields of the manifest about the reference's training and this scoring."""
        forward = self._model.config.flops_per_token(source.context_length) / 3
        return {
            "reference_flops": training_flops(self._facts, source.step),
            "scoring_flops": forward * source.scored_tokens,
            "reference_start": self._run.config.get("start"),
            "reference_start_flops": self._facts.get("start_flops"),
        }


@dataclass(frozen=True, kw_only=True)
class _PartsUnit:
    """Some parts of one store, with the options to compute them in one process."""

    options: TokenScoreOptions
    parts: ScoreParts
    ranges: tuple[range, ...]


_PARTS = 8  # per unit: loading the model must not cost more than using it
_lock = threading.Lock()  # of the devices of a worker, which several threads may share
_held: dict[bytes, TokenScorer] = {}


def _compute_parts(unit: _PartsUnit) -> None:
    """Compute and keep parts, in a worker; the model of the last unit is kept."""
    with _lock:
        # The folder is named after the parameters and the store, which may be new at an old path.
        key = pickle.dumps((unit.options, unit.parts.folder))
        if key not in _held:
            _held.clear()
            cache = unit.options.compilation_cache
            use_compilation_cache(cache, beside=to_path(unit.options.run))
            quiet = EvaluationProgress(label="score --tokens", quiet=True)
            _held[key] = TokenScorer(unit.options, progress=quiet)
        _held[key].compute(unit.parts, unit.ranges)


def training_flops(facts: Mapping[str, Any], step: int) -> float | None:
    """Return the FLOPs of a run's own steps; None if unknown.

    Those before ``train.start`` are not counted, as in the column ``flops``.

    Args:
        facts: facts of the run.
        step: step of the checkpoint.
    """
    rate, cost = facts.get("tokens_per_step"), facts.get("flops_per_token")
    return float(rate) * float(cost) * step if rate and cost else None


@contextmanager
def _no_empty_folder(folder: Path) -> Iterator[None]:
    """Remove a folder that the block made if a user error leaves it empty."""
    existed = folder.exists()
    try:
        yield
    except UserError:
        if not existed and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def _finished(job: _Job) -> TokenScores | None:
    """Return the scores at ``out`` if they are the wanted ones; None if nothing is there.

    Raises:
        UserError: ``out`` contains other scores, damaged ones, or something else.
    """
    if not job.out.exists() or (job.out.is_dir() and not any(job.out.iterdir())):
        return None
    try:
        present = TokenScores.open(job.out)
    except NoStore as error:
        raise UserError(
            f"{job.out}: exists and contains no token scores. Choose another token_scores.out."
        ) from error
    theirs, ours = present.manifest.source, job.source
    for name in ("store_fingerprint", "parameters", "context_length", "documents", "activations"):
        if getattr(theirs, name) != getattr(ours, name):
            raise UserError(
                f"{job.out}: contains other token scores ({name} {getattr(theirs, name)} instead "
                f"of {getattr(ours, name)}). Delete it or choose another token_scores.out."
            )
    if not set(ours.quantities) <= set(theirs.quantities):
        raise UserError(
            f"{job.out}: contains only {' and '.join(theirs.quantities)}. Delete it, or choose "
            "another token_scores.out."
        )
    return present


def _rows(windows: Windows, batches: Sequence[range], *, separate: bool) -> Iterator[Rows]:
    """Yield the rows of each batch of windows; segment ids only if documents are separate."""
    for numbers in batches:
        batch = windows.read(np.asarray(numbers, np.int64))
        yield batch.inputs, batch.targets, batch.segment_ids if separate else None


def _narrowed(
    name: str, batches: Sequence[Mapping[str, np.ndarray]], source: ScoreSource
) -> np.ndarray:
    """Return the values of a part as float16 [windows, L].

    Raises:
        UserError: a value is not finite, or above the largest float16.
    """
    values = np.concatenate([batch[name] for batch in batches])
    with np.errstate(over="ignore"):
        narrow = values.astype(DTYPE)
    if not np.isfinite(narrow).all():
        found = values[~np.isfinite(narrow)][0]
        raise UserError(
            f"{source.reference}: the {name} of a token is {found}, which {DTYPE} cannot hold. The "
            "reference has diverged: choose another checkpoint or run."
        )
    return narrow


def _assembled(
    job: _Job,
    folder: Path,
    parts: ScoreParts,
    ranges: Sequence[range],
    cost: Mapping[str, Any],
) -> ScoreManifest:
    """Write the array of each quantity into ``folder`` and return the manifest."""
    source = job.source
    facts, means = {}, {}
    for name in source.quantities:
        total = 0.0

        def blocks(name: str = name) -> Iterator[np.ndarray]:
            nonlocal total
            for part in ranges:
                if (kept := parts.read(part)) is None:
                    raise UserError(
                        f"{parts.folder}: part {part.start}-{part.stop} is missing or damaged. "
                        "Start again; workers of a cluster must share this file system with this "
                        "machine."
                    )
                total += float(kept[name].sum(dtype=np.float64))
                yield kept[name].ravel()
            yield np.full(source.tokens - source.scored_tokens, np.nan, DTYPE)

        facts[name] = arrays.write(folder / name, blocks(), dtype=DTYPE, size=source.tokens)
        means[name] = total / source.scored_tokens
    return ScoreManifest(
        source=source,
        store=job.store.location,
        means=means,
        arrays=facts,
        **cost,
    )
