"""Implementation of ``python -m lossline.score``: every model on every domain of a pool.

The windows, the covered bytes and the sums are those of ``lossline.evaluate``. Pages of all domains
share rows, and the nats of each page are kept by shard, so that a killed scoring continues.

With several processes, the first one holds the shards and the table: it says which shards are
missing and writes them. The others compute their rows of every batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lossline.cluster import connect
from lossline.cluster.connecting import LOCAL, check
from lossline.corpora.gathering import job_hash
from lossline.corpora.pools import Pool
from lossline.errors import UserError
from lossline.evaluation.measured_runs import (
    checkpoint_columns,
    run_columns,
    runs_of_all,
    shape_key,
)
from lossline.evaluation.options import (
    Devices,
    MeasureOptions,
    require_runs,
    use_compilation_cache,
)
from lossline.evaluation.progress import EvaluationProgress
from lossline.evaluation.restoring import MeasurementFailed, nats_of, not_finite
from lossline.evaluation.sets import EvaluationSet, SetLibrary
from lossline.evaluation.windows import WindowRule
from lossline.files import locked
from lossline.places import local_path
from lossline.runs.checkpoints import parameters_fingerprint
from lossline.runs.run_directory import RunDirectory
from lossline.scoring.cluster_shards import (
    SHARDS,
    ShardUnit,
    compute_shards,
    everywhere,
)
from lossline.scoring.pool_pages import PoolPages
from lossline.scoring.shard_texts import ShardTexts
from lossline.scoring.shards import ShardFiles
from lossline.sharding import ProcessGroup, joined
from lossline.stores.token_store import TokenStore
from lossline.tables import scores
from lossline.tables.schema import START
from lossline.tables.scores import Measure, ScoreKind, ScoreStatus

_FILE = "scores.parquet"
_LAST = "last"


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(MeasureOptions):
    """Options of ``lossline.score``: those of ``MeasureOptions``, and these.

    Attributes:
        pool: the pool; its scored pages are measured.
        store: token store of these pages. ``{tokenizer}`` and other columns of the run's facts are
            replaced by their values, ``{name}`` by the pool's name.
        out: score table to write (.parquet or .csv), or a folder for scores.parquet. It contains
            the models of ``runs`` and no others.
        step: "last": the last kept checkpoint of each run; a number: this one.
        family: fact of the run that names models to resample together, such as "architecture". "":
            each model is a family of its own.
        shard_tokens: tokens after which finished work is kept on disk. Default: a few seconds of
            work of a small model on one core.
        cluster: "local": the devices of this process; the address of a Dask scheduler: the devices
            of its workers, each with a model of its own. They must see runs, stores and ``out``.
    """

    pool: Pool
    store: str
    out: str
    step: int | str = _LAST
    family: str = ""
    shard_tokens: int = 1 << 18
    cluster: str = LOCAL

    def __post_init__(self) -> None:
        check(self.cluster)
        if self.step != _LAST and (isinstance(self.step, str) or self.step < 0):
            raise UserError(f"score.step = {self.step!r}: give 'last' or the step of a checkpoint")
        if self.shard_tokens < 1:
            raise UserError(f"score.shard_tokens = {self.shard_tokens}: must be at least 1")


def score(options: ScoreOptions) -> pd.DataFrame | None:
    """Score the models, write the table and print a summary.

    A model that fails gives failed rows and does not stop the others.

    Returns:
        The score table; None in other processes than the first.

    Raises:
        UserError: a run or store is missing, a store does not contain the pool's pages, or ``out``
            contains something else; raised before anything is measured.
    """
    with joined(options.launch, verb="score") as group:
        with group.agreed():
            scorer = PoolScorer(options, group=group)
        return scorer.run()


@dataclass(frozen=True, kw_only=True)
class _Model:
    """One row of work: a checkpoint, and the store and rule that it is scored with."""

    run: RunDirectory
    facts: Mapping[str, Any]
    family: str | None  # None: its own name
    step: int | None  # None: the run has no such checkpoint
    store: TokenStore
    rule: WindowRule

    @property
    def name(self) -> str:
        return str(self.facts["run_id"])


class PoolScorer:
    """The models and the pool of one call of ``lossline.score``.

    Args:
        options: options.
        progress: progress line.
        group: the processes that score together. None: this process alone.

    Raises:
        UserError: an option is wrong.
    """

    def __init__(
        self,
        options: ScoreOptions,
        *,
        progress: EvaluationProgress | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        self._options = options
        self._group = group or ProcessGroup()
        require_runs(options.runs, verb="score")
        self._devices = Devices(options, verb="score", rows=options.rows, group=group)
        self._pages = PoolPages(options.pool)
        self._progress = progress or EvaluationProgress(label="score", quiet=not self._group.first)
        self._failures: list[str] = []
        self._tokens = self._cells = 0  # positions computed: real ones, and all
        # By model, what a cluster computed and did not keep, and why it could not compute more.
        self._computed: dict[str, dict[int, np.ndarray]] = {}
        self._unmeasured: dict[str, str] = {}
        if options.cluster != LOCAL and self._group.count > 1:
            raise UserError(
                "score.cluster: workers of a cluster and several processes of a pod at once. Give "
                "one of them."
            )

    def run(self) -> pd.DataFrame | None:
        """Score what is not scored yet, write the table and return it (in the first process)."""
        runs = runs_of_all(self._group, self._options)
        use_compilation_cache(self._options.compilation_cache, beside=runs[0].path)
        with self._group.agreed():
            models = self._models(runs)
            out = _table_path(self._options.out)
        self._group.require_equal(
            {
                f"what {model.name} is scored on": [
                    model.step,
                    model.store.manifest.fingerprint,
                    self._pages.fingerprint,
                ]
                for model in models
            },
            fix="Give all hosts the same checkpoints, stores and pool.",
        )
        with ExitStack() as stack:
            with self._group.agreed():
                if self._group.first:
                    out.parent.mkdir(parents=True, exist_ok=True)
                    lock = out.with_name(f"{out.stem}.lock")
                    stack.enter_context(locked(lock, lambda owner: _being_written(out, owner)))
                    _require_replaceable(out, [model.name for model in models])
            if self._options.cluster != LOCAL:
                self._compute_on_cluster(models, out)
            rows = {model.name: found for model, found in self._scored(models, out)}
            if not self._group.first:
                return None
            ordered = [row for model in models for row in rows[model.name]]
            table = scores.from_rows(ordered)
            scores.write(table, out)
        self._report(table, out)
        return table

    def _models(self, runs: Sequence[RunDirectory]) -> list[_Model]:
        """Return what to score. Opens and checks every store first."""
        library = SetLibrary(self._devices.layout)
        source = EvaluationSet(name=self._options.pool.name, path=self._options.store)
        checked: set[str] = set()
        models: dict[str, _Model] = {}
        for run in runs:
            facts = run.facts
            store = library.store(source, facts)
            assert isinstance(store, TokenStore)
            if store.location not in checked:
                self._pages.require_in(store)
                checked.add(store.location)
            model = _Model(
                run=run,
                facts=facts,
                family=self._family(run),
                step=self._step(run),
                store=store,
                rule=self._options.rule(facts),
            )
            if model.name in models:
                raise UserError(
                    f"score.runs: {models[model.name].run.path} and {run.path} are both named "
                    f"{model.name!r}. Rename one, or score them into two tables."
                )
            models[model.name] = model
        return list(models.values())

    def _family(self, run: RunDirectory) -> str | None:
        name = self._options.family
        if not name:
            return None
        family = run_columns(run).get(name)
        if family is None:
            raise UserError(
                f"score.family = {name!r}: run {run.path} has no such fact. Give a column of its "
                "loss table, such as 'architecture', or leave the option empty."
            )
        return str(family)

    def _step(self, run: RunDirectory) -> int | None:
        steps, wanted = run.kept_checkpoint_steps(), self._options.step
        if isinstance(wanted, str):
            return steps[-1] if steps else None
        return wanted if wanted in steps else None

    def _scored(
        self, models: Sequence[_Model], out: Path
    ) -> Iterator[tuple[_Model, list[dict[str, Any]]]]:
        """Yield each model with its rows.

        Models of one store and shape follow each other, so that they use the same packed texts and
        the same compiled program.
        """
        folder = _shards_folder(out)
        for model, texts in self._with_texts(models):
            yield model, self._rows(model, texts, folder)

    def _with_texts(self, models: Sequence[_Model]) -> Iterator[tuple[_Model, ShardTexts]]:
        texts, held = None, None
        for model in sorted(models, key=_work_key):
            if texts is None or held != (model.store.location, model.rule):
                held = (model.store.location, model.rule)
                texts = ShardTexts(
                    model.store, model.rule, self._devices.layout, self._options.shard_tokens
                )
            yield model, texts

    def _compute_on_cluster(self, models: Sequence[_Model], out: Path) -> None:
        """Compute the missing shards of all models by the workers of a cluster."""
        units, owners = [], []
        for model, texts in self._with_texts(models):
            with contextlib.suppress(MeasurementFailed):  # told when its rows are made
                shards = self._shards(model, _shards_folder(out))
                found = [
                    number
                    for number, pages in enumerate(texts.ranges)
                    if shards.read(pages) is None
                ]
                for start in range(0, len(found), SHARDS):
                    units.append(self._unit(model, shards, found[start : start + SHARDS]))
                    owners.append(model)
                self._progress.expect(sum(map(texts.tokens, found)))
        if not units:
            return
        with connect(self._options.cluster, say=self._progress.say) as engine:
            self._progress.start()
            for number, result in engine.run(compute_shards, units, what="units of shards"):
                model = owners[number]
                if result.failure:
                    self._unmeasured[model.name] = result.failure
                self._computed.setdefault(model.name, {}).update(result.not_kept)
                self._tokens += result.tokens
                self._cells += result.cells
                self._progress.advance(result.tokens, f"{model.name} step {model.step}")

    def _unit(self, model: _Model, shards: ShardFiles, numbers: Sequence[int]) -> ShardUnit:
        assert model.step is not None
        return ShardUnit(
            options=self._options,
            run=everywhere(str(model.run.path)),
            step=model.step,
            store=everywhere(model.store.location),
            store_fingerprint=model.store.manifest.fingerprint,
            shard_tokens=self._options.shard_tokens,
            folder=everywhere(str(shards.folder)),
            numbers=tuple(numbers),
        )

    def _rows(self, model: _Model, texts: ShardTexts, folder: Path) -> list[dict[str, Any]]:
        """Return one row per domain: measured, or failed with the reason.

        Only the first process needs them and has them.
        """
        try:
            nats = self._nats(model, texts, folder)
        except MeasurementFailed as error:
            return [self._failed(model, domain, str(error)) for domain in self._pages.domains]
        if nats is None:
            return []
        rows = []
        domain_of = self._pages.domain_of[texts.documents.index]
        for number, domain in enumerate(self._pages.domains):
            which = np.flatnonzero(domain_of == number)
            sums = texts.documents.sums(nats[which], which)
            if not np.isfinite(sums.nats):
                rows.append(self._failed(model, domain, not_finite(sums.nats)))
                continue
            measured = {name: getattr(sums, name) for name in scores.SUMS if name != "pages"}
            rows.append(self._row(model, domain) | measured | {"pages": sums.documents})
        return rows

    def _nats(self, model: _Model, texts: ShardTexts, folder: Path) -> np.ndarray | None:
        """Return the nats of each page, float64 [pages]; computes only unfinished shards.

        None in other processes than the first.

        Raises:
            MeasurementFailed: the checkpoint is missing or damaged, or cannot be computed.
        """
        shards: ShardFiles | None = None
        found: list[np.ndarray | None] = []

        def unfinished() -> list[int]:
            nonlocal shards
            shards = self._shards(model, folder)
            found.extend(shards.read(pages) for pages in texts.ranges)
            return [number for number, nats in enumerate(found) if nats is None]

        missing = self._group.first_says(unfinished, MeasurementFailed)
        if missing:
            for number, nats in self._measured(model, texts, missing):
                if shards is not None:
                    shards.keep(texts.ranges[number], nats)
                    found[number] = nats
        return np.concatenate([nats for nats in found if nats is not None]) if found else None

    def _shards(self, model: _Model, folder: Path) -> ShardFiles:
        """Return the finished parts of a model.

        Raises:
            MeasurementFailed: the checkpoint is missing or damaged.
        """
        if model.step is None:
            wanted = self._options.step
            which = "kept checkpoint" if wanted == _LAST else f"kept checkpoint {wanted}"
            raise MeasurementFailed(f"run directory {model.run.path} has no {which}")
        try:
            parameters = parameters_fingerprint(model.run, model.step)
        except UserError as error:
            raise MeasurementFailed(str(error)) from error
        identity = (parameters, model.step, model.store.manifest.fingerprint, str(model.rule))
        key = job_hash(*identity, self._options.activations)
        return ShardFiles(folder / f"{model.name[:80]}-{key[:16]}")

    def _measured(
        self, model: _Model, texts: ShardTexts, missing: Sequence[int]
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of each missing shard with the nats of its pages."""
        assert model.step is not None
        if self._options.cluster != LOCAL:
            if model.name in self._unmeasured:
                raise MeasurementFailed(self._unmeasured[model.name])
            computed = self._computed.get(model.name, {})
            if not set(missing) <= computed.keys():
                folder = _shards_folder(_table_path(self._options.out))
                raise UserError(
                    f"{folder}: workers have scored shards of {model.name}, but not all of their "
                    "files are here. All workers must share this file system with this machine."
                )
            yield from computed.items()
            return
        self._progress.expect(sum(texts.packed(number).num_tokens for number in missing))
        with self._group.agreed():
            loaded = self._devices.model(model.run)
        [(_, state)] = loaded.states([model.step])
        self._progress.start()
        for number in missing:
            packed = texts.packed(number)
            with self._group.agreed(MeasurementFailed):
                nats = nats_of(loaded.scorer, state, packed)
            yield number, nats
            self._tokens += packed.num_tokens
            self._cells += packed.num_cells
            self._progress.advance(packed.num_tokens, f"{model.name} step {model.step}")

    def _row(self, model: _Model, domain: str) -> dict[str, Any]:
        """Return the columns of a row that are known before measuring."""
        known = {} if model.step is None else checkpoint_columns(model.run, model.step)
        return {
            "model": model.name,
            "family": model.family,
            "step": model.step,
            "params": model.facts.get("params"),
            "tokens": known.get("tokens"),
            **{name: known.get(name) for name in START},
            "kind": str(ScoreKind.DOMAIN),
            "name": domain,
            "measure": str(Measure.BITS_PER_BYTE),
            "pool": self._pages.fingerprint,
            "rule": str(model.rule),
            "activations": self._options.activations or "model",
            "x_store": model.store.manifest.fingerprint,
            "x_tokenizer": model.facts.get("tokenizer"),
        }

    def _failed(self, model: _Model, domain: str, reason: str) -> dict[str, Any]:
        message = " ".join(reason.split())
        if not self._failures or self._failures[-1] != model.name:
            self._failures.append(model.name)
            self._progress.say(f"score: {model.name} failed on {domain}: {message}")
        return self._row(model, domain) | {"status": str(ScoreStatus.FAILED), "message": message}

    def _report(self, table: pd.DataFrame, out: Path) -> None:
        failed = ""
        if self._failures:
            names = ", ".join(self._failures)
            failed = f" (the reason is in the column message): {names}"
        work = "nothing left to score"
        if self._cells:
            padding = 1 - self._tokens / self._cells
            work = f"{self._tokens:,} tokens computed, padding {padding:.1%}"
        self._progress.say(f"score: {out}: {scores.summary(table)}{failed}; {work}")


def _shards_folder(out: Path) -> Path:
    return out.with_name(f"{out.stem}.shards")


def _work_key(model: _Model) -> tuple[str, str, str]:
    return model.store.location, str(model.rule), shape_key(model.run)


def _table_path(out: str) -> Path:
    """Return the file to write: ``out``, or scores.parquet in the folder ``out``."""
    path = local_path(out, "score.out")
    return path if path.suffix in (".parquet", ".csv") else path / _FILE


def _require_replaceable(out: Path, models: Sequence[str]) -> None:
    """Check that the file at ``out`` contains only scores of these models.

    Raises:
        UserError: it is something else, or contains another model.
    """
    if not out.exists():
        return
    try:
        others = sorted(set(scores.read(out)["model"]) - set(models))
    except UserError as error:
        raise UserError(f"{error}. score.out is not a score table: choose another.") from error
    if others:
        raise UserError(
            f"{out}: contains scores of {others[0]!r}, which is not in score.runs. Add its run to "
            "score.runs, choose another score.out, or delete the file."
        )


def _being_written(out: Path, owner: str) -> str:
    return f"{out}: process {owner} is writing it. Wait for it or stop it, then start again."
