"""Implementation of ``python -m lossline.select``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from lossline import tables, vocabularies
from lossline.choices.choosing import choose
from lossline.choices.files import SELECT_FOLDER, save_choices
from lossline.choices.options import Choices, ChooseOptions
from lossline.choices.stored_pages import open_pool
from lossline.choices.summary import summary
from lossline.cli.table_inputs import as_paths, fingerprint_of, provenance, say_since
from lossline.cluster import WorkLost, connect
from lossline.corpora.gathering import file_sha256
from lossline.corpora.json_lines import matching_files
from lossline.errors import UserError
from lossline.files import empty, working
from lossline.options.identity import identity, not_identity
from lossline.pages.methods import PositiveClassifier
from lossline.pages.overlap import question_text
from lossline.places import to_path
from lossline.stores.prepare_all import vocabulary_spec
from lossline.tables import scores as score_tables
from lossline.vocabularies import Bytes, HuggingFace, SentencePiece, Tiktoken, VocabularySpec

_TRIES = 3
# Packages whose code the results depend on.
_ROOMS = ("tables", "selection", "pages", "choices", "corpora", "vocabularies")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectCommand(ChooseOptions):
    """Options of ``lossline.select``: those of ``ChooseOptions``, and these.

    Attributes:
        vocabulary: tokenizer of the runs, which counts the budget; as in ``store.vocabulary`` of
            ``prepare``.
        out: folder for the results.
        scores: score tables of ``lossline.score`` or of ``lossline.import_sweep``.
        losses: loss tables, run directories or folders of run directories with the losses of the
            scored models on the targets' benchmarks. Not needed for benchmarks that the score
            tables have.
        replace: whether to replace an earlier selection of other inputs at ``out``; other folders
            are never replaced.
        report: whether to make figures and report.html.
        cluster: "local": processes of this machine; the address of a Dask scheduler: its workers,
            which must see the files of the pool and the folder of ``out``.
        processes: number of processes of a local cluster. 0: one per core.
    """

    vocabulary: str | Bytes | SentencePiece | HuggingFace | Tiktoken = ""
    out: str = not_identity("")
    scores: str | tuple[str, ...] = not_identity(())
    losses: str | tuple[str, ...] = not_identity(())
    replace: bool = not_identity(False)
    report: bool = True
    cluster: str = not_identity("local")
    processes: int = not_identity(0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.out:
            raise UserError("missing binding: select.out. Add --out=FOLDER for the results.")
        if self.correlates and not self.scores:
            raise UserError(
                "select.scores: perplexity correlations need the losses of many models. Give the "
                "scores.parquet of python -m lossline.score."
            )
        if self.pool is not None and not self.vocabulary:
            raise UserError("missing binding: select.vocabulary. Name the tokenizer of the runs.")


def select(options: SelectCommand) -> Choices | None:
    """Select pages for every target by every method, and write and print the results.

    Returns:
        The results; None if the folder is up to date.

    Raises:
        UserError: an input is missing or wrong, the pool was changed since it was scored, the
            budget is larger than the pool, or ``out`` contains something else.
    """
    out = to_path(options.out, "select.out")
    scores, losses = _tables(options)
    started = time.monotonic()
    say = functools.partial(say_since, started)
    with contextlib.ExitStack() as stack:
        pool, spec, pool_fingerprint = None, None, ""
        if options.pool is not None:
            work = stack.enter_context(_work_folder(out))
            spec = vocabulary_spec(options.vocabulary, Path(options.pool.root))
            engine = connect(options.cluster, processes=options.processes, say=say)
            pool = open_pool(options.pool, stack.enter_context(engine), work, say=say)
            pool_fingerprint = pool.index.fingerprint()
        fingerprint = _fingerprint(options, scores, losses, spec, pool_fingerprint)
        if SELECT_FOLDER.is_up_to_date(out, fingerprint, replace=options.replace):
            print((out / "summary.txt").read_text(encoding="utf-8").rstrip())
            print(f"{out} is up to date")
            return None
        partial = stack.enter_context(SELECT_FOLDER.writing(out, fingerprint))
        if pool is not None:
            pool = pool.keeping(pool_fingerprint, say=say)
        found = choose(
            options,
            spec,
            scores=scores,
            losses=losses,
            pool_fingerprint=pool_fingerprint,
            pool=pool,
            say=say,
        )
        paths = [*as_paths(options.scores), *as_paths(options.losses)]
        about = provenance("select", paths, fingerprint)
        save_choices(found, options, partial, about)
        text = summary(found, options)
        (partial / "summary.txt").write_text(text + "\n", encoding="utf-8")
        if options.report:
            from lossline.reporting.selections.report import write_selection_report

            say("figures and report")
            write_selection_report(found, options, partial, provenance=about, say=say)
    print(text)
    print(f"Results: {out / 'report.html' if options.report else out}", flush=True)
    return found


@contextlib.contextmanager
def _work_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``out`` for files of the work, locked.

    They are kept for the next start if this one is killed, interrupted or loses its workers or its
    disk; they are removed if it succeeds or an input is wrong.
    """
    with working(out) as work:
        try:
            yield work
        except UserError as error:
            if not isinstance(error, WorkLost):
                _empty(work)
            raise
        _empty(work)


def _empty(work: Path) -> None:
    for _ in range(_TRIES):  # a worker that is late may be writing there
        with contextlib.suppress(OSError):
            empty(work)
            return


def _tables(options: SelectCommand) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
    scores, losses = as_paths(options.scores), as_paths(options.losses)
    return (
        score_tables.read(scores) if scores else None,
        tables.load(losses) if losses else None,
    )


def _fingerprint(
    options: SelectCommand,
    scores: pd.DataFrame | None,
    losses: pd.DataFrame | None,
    spec: VocabularySpec | None,
    pool_fingerprint: str,
) -> str:
    """Return the SHA-256 (hex) of everything that the selections depend on."""
    parts = [vocabularies.load(spec).hash if spec else "", pool_fingerprint]
    for table in (scores, losses):
        empty = pd.DataFrame()
        parts.append(fingerprint_of(empty if table is None else table, options, _ROOMS))
    for target in options.targets if options.pool else ():
        items = target.items(options.data_root)
        texts = {name: list(map(question_text, some)) for name, some in items.items()}
        read = json.dumps([target.read_texts(options.data_root), texts])
        parts.append(hashlib.sha256(read.encode()).hexdigest())
    for method in options.methods.values() if options.pool else ():
        if isinstance(method, PositiveClassifier):
            paths = matching_files(method.files, "positive_classifier.files")
            parts += [file_sha256(path) for path in paths]
    return hashlib.sha256(json.dumps([parts, identity(options.methods)]).encode()).hexdigest()
