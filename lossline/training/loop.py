"""The training loop.

Prepare, restore or initialize, dispatch a step, read the metrics of the previous step, save,
finish.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lossline.batches.plans import BatchPlan, MixturePlan
from lossline.errors import UserError
from lossline.files import local_folder, write_json, write_text
from lossline.heap import free_bytes, give_back_above, limit_kept_memory
from lossline.options.gin_text import gin_text
from lossline.options.identity import identity
from lossline.runs import checkpoints
from lossline.runs.origin import check_start, start_facts, start_parameters, with_known_start
from lossline.runs.run_directory import RunDirectory, RunState, RunStatus, claim
from lossline.seeds import random_key
from lossline.sharding import (
    batch_sharding,
    launch,
    parameter_table,
)
from lossline.stores.token_scores import TokenScores
from lossline.training.batch_contents import batch_fields, batch_plan, token_scores
from lossline.training.components import COMPONENTS
from lossline.training.facts import run_facts
from lossline.training.hardware import peak_flops
from lossline.training.interruption import Interruption
from lossline.training.make_trainer import make_trainer, rates, step_arguments
from lossline.training.metrics import MetricsWriter
from lossline.training.options import TrainOptions
from lossline.training.prefetch import place_batch, prefetched
from lossline.training.progress import StepProgress
from lossline.training.step import State, Trainer, host_buffers
from lossline.training.text import TrainingText

# With several processes, the clock of the first process decides when a replaceable checkpoint is
# due. Asking it costs a collective operation, so it is asked only every so many steps.
CLOCK_EVERY = 32


class TrainingFailed(Exception):
    """Raised when the loss or a norm is NaN or infinite.

    The message is one line and names the last good checkpoint.
    """


def train(options: TrainOptions) -> RunDirectory:
    """Train to the last step; continue from the newest checkpoint if the run was started before.

    Raises:
        UserError: options, data, mesh and run directory do not fit each other. Nothing has been
            written.
        TrainingFailed: the loss or a norm became NaN or infinite.
        KeyboardInterrupt: SIGINT or SIGTERM arrived. A checkpoint has been saved.
    """
    launch(options.launch)
    say = StepProgress(
        steps=options.total_steps, seconds=options.log.seconds, quiet=jax.process_index() > 0
    )
    options = with_known_start(options)
    config = identity(options)
    run, _ = claim(options.folder, config)
    if run.status.state is RunState.FINISHED:
        say.say(f"{run.path} is finished ({run.status.step} steps): nothing to do")
        return run
    job = _prepare(options, run, say)
    run.path.mkdir(parents=True, exist_ok=True)
    if options.cache_folder is not None:
        use_compilation_cache(options.cache_folder)
    with _writing(run):
        _, started = claim(options.folder, config)
        if started:
            _delete_partial_saves(job)
        try:
            _run(job, config)
        except TrainingFailed as failure:
            # The last save ended only when the writer was closed, so list checkpoints now.
            steps = run.checkpoint_steps()
            kept = (
                f"the last good checkpoint is {steps[-1]}"
                if steps
                else "there is no checkpoint yet"
            )
            job.note(RunState.FAILED, f"{failure}; {kept}")
            raise TrainingFailed(f"{failure}; {kept}") from None
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            with contextlib.suppress(OSError, UserError):  # e.g. a full disk: keep the first error
                job.note(RunState.FAILED, f"{type(error).__name__}: {error}".splitlines()[0])
            raise
    return run


def check(options: TrainOptions) -> RunDirectory:
    """Make every check of ``train`` that writes nothing, in this process, and return the run.

    Raises:
        NotMadeYet: the store or the origin does not exist yet.
        UserError: options, data, mesh and run directory do not fit each other.
    """
    options = with_known_start(options)
    run, _ = claim(options.folder, identity(options))
    if run.status.state is not RunState.FINISHED:
        _prepare(options, run, StepProgress(steps=options.total_steps, seconds=0.0, quiet=True))
    return run


@dataclass
class _Job:
    """State shared by the parts of one training."""

    options: TrainOptions
    run: RunDirectory
    progress: StepProgress
    text: TrainingText
    plan: BatchPlan | MixturePlan
    mesh: Mesh
    trainer: Trainer
    first: bool  # whether this process is the first one, which writes the files
    scores: list[TokenScores]  # token scores that the objective reads
    step: int = 0  # number of finished updates
    trained_tokens: int = 0  # number of tokens that the objective has selected so far

    def note(self, state: RunState, message: str = "") -> None:
        """Write the run's status."""
        if self.first:
            self.run.write_status(RunStatus(state=state, step=self.step, message=message))


# --- before the first step ----------------------------------------------------------------------


def _prepare(options: TrainOptions, run: RunDirectory, progress: StepProgress) -> _Job:
    """Open and check everything that can fail, before anything is written."""
    text = TrainingText.open(options.store)
    scores = token_scores(options, text)
    plan = batch_plan(options, text, scores)
    vocabulary = text.vocabulary
    if vocabulary.vocab_size > options.model.vocab_size:
        raise UserError(
            f"model vocab_size = {options.model.vocab_size} is smaller than the vocabulary of "
            f"{text.location} ({vocabulary.name}, {vocabulary.vocab_size} tokens). Set vocab_size "
            f"to {vocabulary.vocab_size}, or train on a store of a smaller vocabulary."
        )
    if options.start is not None and not run.checkpoint_steps():
        check_start(options.start, options.model, vocabulary)
    trainer = make_trainer(options)
    with jax.set_mesh(trainer.mesh):  # errors of operations appear here, when traced
        jax.eval_shape(trainer.step, *step_arguments(options, trainer))
    first = jax.process_index() == 0
    return _Job(options, run, progress, text, plan, trainer.mesh, trainer, first, scores)


def _delete_partial_saves(job: _Job) -> None:
    """Delete partial checkpoints that a killed process left."""
    if job.first:
        checkpoints.clear_unsealed(job.run)


@contextlib.contextmanager
def _writing(run: RunDirectory) -> Iterator[None]:
    """Hold the run's lock in the first process; the other processes rely on it."""
    if jax.process_index() > 0:
        yield
        return
    with run.lock():
        yield


def _describe(job: _Job, config: dict[str, Any]) -> None:
    """Write the files that describe the run.

    ``config.json`` is written last, because it marks the folder as a run directory.
    """
    facts = run_facts(
        job.options,
        run_id=job.run.name,
        text=job.text,
        fingerprint=job.plan.fingerprint,
        mesh=job.mesh,
        rings=job.trainer.chosen_rings,
        scores=job.scores,
        start=start_facts(job.options.start, job.run.facts if job.step else None),
    )
    trainer, folder = job.trainer, job.run.path
    table = parameter_table(
        trainer.shapes["params"], trainer.logical_axes, trainer.shardings["params"]
    )
    write_text(folder / "model.txt", table)
    write_text(folder / "config.gin", gin_text("train", job.options, COMPONENTS))
    write_json(folder / "facts.json", facts)
    write_json(folder / "config.json", config)


def _begin(job: _Job) -> State:
    """Return the state of the newest intact checkpoint, or that before the first step."""
    abstract = job.trainer.abstract_state
    found = None
    if job.first:
        parts = checkpoints.parts_of(abstract)
        found = checkpoints.newest_intact(job.run, parts=parts, say=job.progress.say)
    if jax.process_count() > 1:
        # Only the first process checks the files; all must restore the same checkpoint.
        found = int(multihost_utils.broadcast_one_to_all(np.int32(-1 if found is None else found)))
        found = None if found < 0 else found
    if found is None:
        return _first_state(job)
    job.step = found
    job.trained_tokens = job.run.trained_tokens(found) or 0
    job.progress.say(f"continuing from checkpoint {found} of {job.run.path}")
    return checkpoints.restore_state(job.run, found, abstract, data=job.plan.fingerprint)


def _first_state(job: _Job) -> State:
    """Return the state before the first step: fresh, or the origin's parameters."""
    start, trainer = job.options.start, job.trainer
    if start is None:
        return trainer.init(random_key(job.options.seed))
    job.progress.say(f"starting from checkpoint {start.step} of {start.run}")
    return trainer.init_from(start_parameters(start, trainer.shardings["params"]))


def use_compilation_cache(folder: Path) -> None:
    """Keep every compiled program in ``folder``, so that later runs of a shape skip compilation."""
    jax.config.update("jax_compilation_cache_dir", str(folder.resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


# --- the steps ----------------------------------------------------------------------------------


def _run(job: _Job, config: dict[str, Any]) -> None:
    options = job.options
    state = _begin(job)
    if job.first:
        _describe(job, config)
    job.note(RunState.RUNNING)
    counts = options.model.num_params()
    job.progress.say(
        f"training {job.run.path}: {counts.total / 1e6:.2f}M parameters, "
        f"{options.total_tokens / 1e6:.2f}M tokens in "
        f"{options.total_steps} steps, mesh "
        f"{' × '.join(f'{k}={v}' for k, v in job.mesh.shape.items())}"
    )
    writer = checkpoints.CheckpointWriter(
        job.run, data=job.plan.fingerprint, optimizer_states=options.checkpoints.optimizer_states
    )
    try:
        with Interruption() as stop, jax.set_mesh(job.mesh), _Reporter(job) as reporter:
            _steps(job, state, writer, reporter, stop)
    finally:
        writer.close()
    job.note(RunState.FINISHED)


def _steps(
    job: _Job,
    state: State,
    writer: checkpoints.CheckpointWriter,
    reporter: _Reporter,
    stop: Interruption,
) -> None:
    """Run the remaining updates. Step t is dispatched before the metrics of step t - 1 are read."""
    options, total = job.options, job.options.total_steps
    if job.step == total:
        return
    keep = frozenset(options.checkpoints.kept_steps(total))
    place = partial(
        place_batch,
        job.plan,
        batch_size=options.batch_size,
        sharding=batch_sharding(job.mesh),
        names=tuple(batch_fields(options)),
    )
    clock = _CheckpointClock(options.checkpoints.minutes * 60)
    update = job.trainer.compiled(*step_arguments(options, job.trainer))
    buffers = host_buffers(update, job.mesh)
    limit_kept_memory(buffers)
    most = free_bytes() + (buffers or 0)  # one block of a step more than now
    with (
        _Profile(job) as profile,
        contextlib.closing(prefetched(place, start=job.step, stop=total)) as batches,
    ):
        for step, batch in enumerate(batches, start=job.step + 1):
            profile.before(step)
            state, metrics = update(state, batch, rates(job.options, step))
            reporter.saw(step, metrics)
            profile.after(step, state)
            stopping = stop.asked(step)
            if step in keep or stopping or clock.due(step):
                reporter.flush()  # raises before a state with NaN or infinity is saved
                reporter.sync()
                give_back_above(most)  # earlier saves have cut into the holes of a step
                trained = None if options.objective is None else job.trained_tokens
                writer.save(step, state, kept=step in keep, trained_tokens=trained)
                clock.reset()
                job.step = step
                job.note(RunState.RUNNING)
            if stopping and step < total:
                writer.wait()
                job.progress.say(
                    f"stopped by a signal at step {step}; run the same command again to continue"
                )
                raise KeyboardInterrupt
    reporter.flush()
    writer.wait()
    job.step = total


class _Reporter:
    """Read metrics one step late, write and show them, and stop the run if one is NaN or infinite.

    Reading late keeps the device busy: it already computes the next step while the host waits.
    """

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._waiting: tuple[int, jax.Array] | None = None
        self._writer = (
            MetricsWriter(job.run.path, step=job.step, tensorboard=job.options.log.tensorboard)
            if job.first
            else None
        )
        peak = peak_flops(job.mesh.devices.flat[0])
        self._peak = None if peak is None else peak * job.mesh.size
        # Time and step at the start of the interval over which the rate is measured.
        self._mark: tuple[float, int] | None = None
        self._rate: float | None = None

    def __enter__(self) -> _Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def saw(self, step: int, metrics: jax.Array) -> None:
        """Store the metrics of ``step``, perhaps not computed yet; report the step before."""
        metrics.copy_to_host_async()  # the transfer overlaps with the next step
        before, self._waiting = self._waiting, (step, metrics)
        if before is not None:
            self._report(*before)

    def flush(self) -> None:
        """Report the stored metrics. Afterwards all dispatched steps are known to be finite."""
        before, self._waiting = self._waiting, None
        if before is not None:
            self._report(*before)

    def sync(self) -> None:
        """Write the reported metrics, so that a run that continues from here has them."""
        if self._writer is not None:
            self._writer.sync()

    def _report(self, step: int, metrics: jax.Array) -> None:
        names = self._job.trainer.metric_names
        values = dict(zip(names, np.asarray(metrics).tolist(), strict=True))
        if not all(math.isfinite(value) for value in list(values.values())[:3]):
            raise TrainingFailed(self._diagnosis(step, values))
        self._job.trained_tokens += int(values.get("selected_tokens", 0))
        self._measure_rate(step)
        options = self._job.options
        total = options.total_steps
        if self._writer is not None and (step % options.log.every == 0 or step in (1, total)):
            self._writer.write(self._row(step, values))
        left = None if self._rate is None else (total - step) * options.tokens_per_step / self._rate
        self._job.progress.show_step(
            step, loss=values["loss"], tokens_per_second=self._rate, seconds_left=left
        )

    def _row(self, step: int, values: dict[str, float]) -> dict[str, float | int | None]:
        options = self._job.options
        tokens = step * options.tokens_per_step
        flops_rate = None if self._rate is None else self._rate * options.flops_per_token
        causal_rate = None if self._rate is None else self._rate * options.causal_flops_per_token
        return {
            "step": step,
            "tokens": tokens,
            "flops": tokens * options.flops_per_token,
            **{name: value for name, value in values.items() if math.isfinite(value)},
            "learning_rate": float(rates(self._job.options, step)[0]),
            "tokens_per_second": self._rate,
            "flops_per_second": flops_rate,
            "mfu": flops_rate / self._peak if flops_rate and self._peak else None,
            "mfu_causal": causal_rate / self._peak if causal_rate and self._peak else None,
        }

    def _measure_rate(self, step: int) -> None:
        """Update the tokens per second, over at least the last second.

        The first step is not counted: its time includes the first batch.
        """
        now = time.monotonic()
        if self._mark is None:
            self._mark = (now, step)
            return
        seconds = now - self._mark[0]
        last_step_without_rate = self._rate is None and step == self._job.options.total_steps
        if seconds >= 1.0 or (last_step_without_rate and seconds > 0):
            done = (step - self._mark[1]) * self._job.options.tokens_per_step
            self._rate = done / seconds
            self._mark = (now, step)

    def _diagnosis(self, step: int, values: dict[str, float]) -> str:
        shown = ", ".join(f"{name} {value}" for name, value in values.items())
        return (
            f"{self._job.run.path}: step {step} gave {shown}. Decrease the learning rate, lengthen "
            f"the warmup, or inspect the data of that step"
        )


class _CheckpointClock:
    """Timer of the replaceable checkpoints, with the same answer in every process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.reset()

    def reset(self) -> None:
        """Restart the timer."""
        self._since = time.monotonic()

    def due(self, step: int) -> bool:
        """Return whether ``seconds`` have passed since the last reset."""
        if not self._seconds:
            return False
        due = time.monotonic() - self._since >= self._seconds
        if jax.process_count() == 1:
            return due
        if step % CLOCK_EVERY:
            return False
        return bool(multihost_utils.broadcast_one_to_all(np.bool_(due)))


class _Profile:
    """Profiler trace of those steps in ``profile_steps`` that this start runs."""

    def __init__(self, job: _Job) -> None:
        self._first, self._last = job.options.profiled_steps or (0, 0)
        self._folder = job.run.path / "profile"
        self._say = job.progress.say
        self._traced: tuple[int, int] | None = None  # first and last step of the running trace
        self._local = contextlib.ExitStack()
        if 0 < self._last <= job.step:
            self._say(
                f"no profile: steps {self._first} to {self._last} finished in an earlier start. "
                f"Choose steps from {job.step + 1} on."
            )

    def __enter__(self) -> _Profile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._traced:  # the run ends before the last profiled step: keep a shorter trace
            self._end()

    def before(self, step: int) -> None:
        """Start the trace at its first step."""
        if self._first <= step <= self._last and self._traced is None:
            jax.profiler.start_trace(self._local.enter_context(local_folder(self._folder)))
            self._traced = step, step

    def after(self, step: int, state: State) -> None:
        """End the trace after the device has finished its last step."""
        if self._traced:
            self._traced = self._traced[0], step
            if step == self._last:
                jax.block_until_ready(state)
                self._end()

    def _end(self) -> None:
        assert self._traced
        first, last = self._traced
        self._traced = None
        jax.profiler.stop_trace()
        self._local.close()
        self._say(f"profile of steps {first} to {last} in {self._folder}")
