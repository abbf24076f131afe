"""Implementation of ``python -m lossline.prepare``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from lossline import vocabularies
from lossline.cluster import Engine, connect
from lossline.corpora import sources
from lossline.corpora.benchmarks import benchmark_folder
from lossline.corpora.gathering import (
    PROVENANCE,
    file_sha256,
    job_hash,
    read_provenance,
    text_folder,
)
from lossline.corpora.items import Item, Questions, gathered_items, glued
from lossline.corpora.noisy import Noisy
from lossline.corpora.pools import MissingDomains, Pool
from lossline.corpora.selected import Selected
from lossline.corpora.sources import JsonLines, Parquet, PlainFiles, SeqioTask, Source, Subset, Tfds
from lossline.errors import UserError
from lossline.files import is_published
from lossline.installing import install_extra
from lossline.places import check_folder_name, local_path, to_path
from lossline.stores import manifests
from lossline.stores.file_hashes import FileHashes
from lossline.stores.jobs import FORMAT, text_job
from lossline.stores.sealed_json import FILE_NAME
from lossline.stores.store_writer import RangedTexts, write_store
from lossline.stores.task_store import write_task
from lossline.stores.token_store import TokenStore
from lossline.stores.vocabulary_training import TrainVocabulary, train_vocabulary
from lossline.terminal import WorkProgress
from lossline.vocabularies import (
    Bytes,
    HuggingFace,
    SentencePiece,
    Tiktoken,
    Vocabulary,
    VocabularySpec,
)


@dataclass(frozen=True, kw_only=True)
class StoreJob:
    """Gin component ``store``: stores to make with one vocabulary.

    One store is made for each set and split, and one for each task.

    Attributes:
        vocabulary: "bytes", the path of a ``.model`` or ``.json`` file, a name below
            ``<root>/vocabularies``, or ``@bytes()``, ``@sentencepiece()``, ``@huggingface()``,
            ``@tiktoken()``.
        sets: names of gathered corpora, or ``@jsonl()``, ``@parquet()``, ``@files()``,
            ``@tfds()``, ``@seqio_task()``, ``@pool()``, ``@selected()``, ``@noisy()``.
        splits: splits of every set. A pool also has the split "scored": document i of that store
            is the i-th page of ``Pool.scored``. Selections and noisy pages have the split "train"
            only.
        tasks: names of gathered benchmarks, or ``@questions()``.
        max_documents: maximum number of documents per set and split; see ``Subset``. 0: no limit.
        max_megabytes: maximum text per set and split; see ``Subset``. 0: no limit.
        max_document_kilobytes: maximum size of a document; see ``Subset``. 0: no limit.
        missing: "refuse" raises an error for a set or task that is not gathered; "skip" leaves it
            out and prints its name.
    """

    vocabulary: str | Bytes | SentencePiece | HuggingFace | Tiktoken
    sets: tuple[
        str | JsonLines | Parquet | PlainFiles | Pool | Selected | Noisy | Tfds | SeqioTask, ...
    ] = ()
    splits: tuple[str, ...] = ("train", "validation")
    tasks: tuple[str | Questions, ...] = ()
    max_documents: int = 0
    max_megabytes: float = 0.0
    max_document_kilobytes: float = 0.0
    missing: MissingDomains = MissingDomains.REFUSE


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options of ``prepare``.

    Attributes:
        root: data root, as in ``gather``.
        stores: stores to make.
        vocabularies: vocabularies that ``--train_vocabulary`` trains.
        train_vocabulary: whether to train the vocabularies instead of making stores.
        out: folder of the stores. Default: ``<root>/stores``.
        cluster: "local": processes of this machine; or the address of a Dask scheduler,
            "tcp://host:port": its workers, which must see the same paths as this machine.
            Vocabularies are always trained on this machine.
        processes: number of processes of this machine that tokenize or train vocabularies. 0: one
            per core.
    """

    root: str = "data"
    stores: tuple[StoreJob, ...] = ()
    vocabularies: tuple[TrainVocabulary, ...] = ()
    train_vocabulary: bool = False
    out: str = field(default="", metadata={"identity": False})
    cluster: str = field(default="local", metadata={"identity": False})
    processes: int = field(default=0, metadata={"identity": False})


def prepare(options: PrepareOptions) -> None:
    """Train vocabularies or make stores; skip those that exist.

    Raises:
        UserError: no store or vocabulary is named, a set is missing, a folder contains another
            store, a text is invalid, or the cluster fails.
    """
    root = local_path(options.root, "prepare.root")
    if options.train_vocabulary:
        _train_all(options, root)
        return
    if not options.stores:
        raise UserError(
            "prepare.stores: no store named. Bind (@store(),), or add --train_vocabulary to train "
            "vocabularies."
        )
    out = to_path(options.out, "prepare.out") if options.out else root / "stores"
    with connect(options.cluster, processes=options.processes, say=_say) as engine:
        hashes = FileHashes(engine)
        steps = [step for job in options.stores for step in _steps(job, root, out, hashes)]
        missing = [step for step in steps if not step.is_ready()]
        for step in missing:
            step.run(engine)
    ready = len(steps) - len(missing)
    print(f"prepare: {len(missing)} stores made, {ready} already prepared, in {out}", flush=True)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """One store to make."""

    path: Path
    kind: str
    job: str
    text_bytes: int
    needs_tensorflow: bool
    make: Callable[[Engine, WorkProgress], str]

    def is_ready(self) -> bool:
        """Return whether the store exists; raise ``UserError`` if it is from another request."""
        if not is_published(self.path, mark=FILE_NAME):
            return False
        present = manifests.read(str(self.path), kind=self.kind)
        if present.job != self.job:
            raise UserError(
                f"{self.path}: contains another store (vocabulary {present.vocabulary.name}, "
                f"{present.source_task}). Choose another prepare.out or delete it."
            )
        if self.kind == "text":
            TokenStore.open(self.path)
        print(f"prepare {self.path}: already prepared", file=sys.stderr, flush=True)
        return True

    def run(self, engine: Engine) -> None:
        if self.needs_tensorflow:
            _import_seqio_tasks()  # before the progress clock starts
        progress = WorkProgress(f"prepare {self.path}", total=self.text_bytes)
        progress.finish(self.make(engine, progress))


def _say(text: str) -> None:
    print(f"prepare: {text}", file=sys.stderr, flush=True)


def _steps(job: StoreJob, root: Path, out: Path, hashes: FileHashes) -> Iterator[_Step]:
    spec = vocabulary_spec(job.vocabulary, root)
    vocabulary = vocabularies.load(spec)
    if vocabulary.slow_because:
        print(
            f"prepare: vocabulary {vocabulary.name}: every text is encoded anew, because "
            f"{vocabulary.slow_because}",
            file=sys.stderr,
            flush=True,
        )
    subset = Subset(
        max_documents=job.max_documents,
        max_megabytes=job.max_megabytes,
        max_document_kilobytes=job.max_document_kilobytes,
    )
    for item in job.sets:
        if isinstance(item, str) and _left_out(job, text_folder(root, item)):
            continue
        source = sources.gathered(root, item) if isinstance(item, str) else item
        for split in job.splits:
            if split == "scored" and (job.max_documents or job.max_megabytes):
                raise UserError(
                    f"store of {source.name}/scored: a limit would change which pages are scored. "
                    "Remove store.max_documents and store.max_megabytes; set pool.scored_pages."
                )
            yield _text_step(source, split, subset, spec, vocabulary, out, hashes)
    for task in job.tasks:
        if isinstance(task, Questions):
            yield _own_task_step(task, vocabulary, out)
        elif not _left_out(job, benchmark_folder(root, task)):
            yield _task_step(task, vocabulary, root, out)


def _left_out(job: StoreJob, folder: Path) -> bool:
    """Return whether a missing folder is left out; print its name if so."""
    left_out = job.missing is MissingDomains.SKIP and not folder.is_dir()
    if left_out:
        print(f"prepare: leaves out {folder.name}: {folder} is not gathered", file=sys.stderr)
    return left_out


def vocabulary_spec(named: str | VocabularySpec, root: Path) -> VocabularySpec:
    """Return the specification of a vocabulary.

    Args:
        named: a specification, a string that ``spec_for`` accepts, or a name below
            ``<root>/vocabularies``.
        root: data root.

    Raises:
        UserError: no vocabulary has that name.
    """
    if not isinstance(named, str):
        return named
    folder = root / "vocabularies" / named
    for file in ("tokenizer.json", "spiece.model"):
        if (folder / file).is_file():
            # A published tokenizer may normalize text; stores require lossless tokens.
            drop = vocabularies.Normalization.DROP
            path = str(folder / file)
            if file == "spiece.model":
                return SentencePiece(path=path, name=named, normalization=drop)
            return HuggingFace(path=path, name=named, normalization=drop)
    if named != "bytes" and not Path(named).suffix:
        raise UserError(
            f"vocabulary {named!r}: not below {folder.parent}. Train it with python -m "
            "lossline.prepare --train_vocabulary, or gather it."
        )
    return vocabularies.spec_for(named)


def _text_step(
    source: Source,
    split: str,
    subset: Subset,
    spec: VocabularySpec,
    vocabulary: Vocabulary,
    out: Path,
    hashes: FileHashes,
) -> _Step:
    name = source.name or getattr(source, "task", "")
    folder = name.replace("/", "_")
    check_folder_name(folder, f"name of a {type(source).__name__}")
    if isinstance(source, JsonLines | Parquet | PlainFiles):
        hashes.compute(sources.paths(source, split))
    job = text_job(source, split, subset, vocabulary.hash, sha256=hashes)
    path = out / vocabulary.name / folder / split

    def make(engine: Engine, progress: WorkProgress) -> str:
        store = write_store(
            path,
            _documents(source, split, subset, hashes),
            spec,
            name=name,
            split=split,
            source_task=", ".join(filter(None, [_describe(source), subset.describe()])),
            license=source.license,
            selection=source.provenance if isinstance(source, Selected) else None,
            job=job,
            engine=engine,
            report=progress.advance,
            found=progress.found,
            say=_say,
        )
        facts = store.manifest
        return (
            f"{facts.documents:,} documents, {facts.bytes / 1e6:,.2f} MB, {facts.tokens:,} tokens "
            f"({facts.bytes / facts.tokens:.2f} bytes each)"
        )

    size = sources.text_bytes(source, split, subset)
    return _Step(
        path=path,
        kind="text",
        job=job,
        text_bytes=size,
        needs_tensorflow=isinstance(source, Tfds | SeqioTask),
        make=make,
    )


def _documents(
    source: Source, split: str, subset: Subset, hashes: FileHashes
) -> Iterable[str] | RangedTexts:
    """Return the documents: ranges that workers read, or the texts, read by this process.

    This process reads what only TensorFlow or seqio can read, pages of pools, and the texts that a
    limit of the number of documents or of their total size chooses.
    """
    if isinstance(source, Tfds | SeqioTask):
        return subset.apply(_import_seqio_tasks().texts(source, split))
    known = sources.splits(source)
    if split not in known:
        raise UserError(f"set {source.name}: no split {split!r}. Use one of {', '.join(known)}.")
    limited = subset.max_documents or subset.max_megabytes
    if limited or not isinstance(source, JsonLines | Parquet | PlainFiles):
        return subset.apply(sources.documents(source, split))
    return RangedTexts(
        ranges=sources.text_ranges(source, split),
        hashes=hashes,
        max_document_kilobytes=subset.max_document_kilobytes,
    )


def _import_seqio_tasks() -> Any:
    """Import ``seqio_tasks``, and TensorFlow with it.

    The import takes seconds and prints warnings, so it happens only if a store must be made, and
    its warnings are hidden.
    """
    if "tensorflow" not in sys.modules:
        print("prepare: importing TensorFlow", file=sys.stderr, flush=True)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        with _quiet_stderr():
            from lossline.corpora import seqio_tasks
    except ImportError as error:
        raise UserError(
            f"making stores needs a package that is missing ({error}); {install_extra('data')}"
        ) from error
    return seqio_tasks


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what C++ code writes to stderr; Python exceptions are not affected."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _task_step(name: str, vocabulary: Vocabulary, root: Path, out: Path) -> _Step:
    folder = benchmark_folder(root, name)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such benchmark. Gather {name!r} first with python -m lossline.gather."
        )
    provenance = read_provenance(folder)
    return _questions_step(
        lambda: gathered_items(folder / "items.jsonl"),
        vocabulary,
        out,
        benchmark=name,
        split=provenance["split"],
        source_task=f"items of {provenance['packages'][0]['requirement']}",
        license=provenance["content_license"],
        job=job_hash("task", FORMAT, file_sha256(folder / "items.jsonl"), vocabulary.hash),
    )


def _own_task_step(task: Questions, vocabulary: Vocabulary, out: Path) -> _Step:
    """Return the step of a file of questions, which is read completely: a wrong line ends here."""
    check_folder_name(task.name, "questions.name")
    items = task.items()
    if glue := glued(items):
        print(
            f"prepare {task.path}: {len(glue)} of {len(items)} questions have a choice that "
            f"directly follows a letter of its context, the first is {glue[0].id}. Start choices "
            "with a space if they are words.",
            file=sys.stderr,
            flush=True,
        )
    return _questions_step(
        lambda: items,
        vocabulary,
        out,
        benchmark=task.name,
        split=task.split,
        source_task=f"questions of {Path(task.path).name}",
        license=task.license,
        job=job_hash("questions", FORMAT, file_sha256(Path(task.path)), vocabulary.hash),
    )


def _questions_step(
    items: Callable[[], Iterable[Item]], vocabulary: Vocabulary, out: Path, *, benchmark: str,
    job: str, **facts: str,
) -> _Step:  # fmt: skip
    path = out / vocabulary.name / "tasks" / benchmark

    def make(engine: Engine, progress: WorkProgress) -> str:
        del engine, progress
        store = write_task(path, items(), vocabulary, benchmark=benchmark, job=job, **facts)
        return f"{store.num_questions:,} questions, {store.manifest.tokens:,} tokens"

    return _Step(path=path, kind="task", job=job, text_bytes=0, needs_tensorflow=False, make=make)


def _describe(source: Source) -> str:
    if isinstance(source, Selected | Noisy):
        return f"seqio Task lossline.{source.name} of {source}"
    if isinstance(source, SeqioTask):
        return f"seqio Task {source.task}"
    if isinstance(source, Tfds):
        return f"seqio Task lossline.{source.name} of TFDS {source.dataset}"
    return f"seqio Task lossline.{source.name} of {type(source).__name__}"


def _train_all(options: PrepareOptions, root: Path) -> None:
    if not options.vocabularies:
        raise UserError("prepare.vocabularies: no vocabulary named. Bind (@vocabulary(),).")
    names = [spec.name for spec in options.vocabularies]
    for name in names:
        check_folder_name(name, "vocabulary.name")
        if names.count(name) > 1:
            raise UserError(
                f"prepare.vocabularies: {name!r} occurs twice. Give each vocabulary its own name."
            )
    missing = []
    for spec in options.vocabularies:
        if is_published(root / "vocabularies" / spec.name, mark=PROVENANCE):
            path, provenance = train_vocabulary(spec, root)
            _say(f"vocabulary {spec.name}: already trained, {_facts(path, provenance)}")
        else:
            missing.append(spec)
            sets = ", ".join(s if isinstance(s, str) else s.name for s in spec.sets)
            _say(
                f"vocabulary {spec.name}: {spec.algorithm.value} of {spec.vocab_size} ids on {sets}"
            )
    started = time.monotonic()
    with connect(processes=options.processes) as engine:
        for number, (path, provenance) in engine.run(partial(train_vocabulary, root=root), missing):
            _say(
                f"vocabulary {missing[number].name}: {_facts(path, provenance)} after "
                f"{time.monotonic() - started:.1f} s"
            )


def _facts(path: Path, provenance: dict[str, Any]) -> str:
    return f"{path} ({provenance['vocab_size']:,} ids, {provenance['hash'][:12]})"
