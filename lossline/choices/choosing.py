"""Select pages for every target by every method: from scores and a pool to page indexes.

The steps: read the pool and drop near-duplicates; look for benchmark text in it; estimate the
coefficients of the domains; for each target and method rank the pages and cut the ranking to the
budget. Without a pool only the coefficients and the weights of the domains are estimated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lossline.choices.composition import composition
from lossline.choices.correlation_method import PerplexityCorrelations
from lossline.choices.estimates import NO_ESTIMATES, Estimates, estimate_domains
from lossline.choices.options import (
    ANY,
    DOMAIN_COLUMNS,
    BenchmarkText,
    Choice,
    Choices,
    ChooseOptions,
)
from lossline.choices.stored_pages import OpenPool, open_pool
from lossline.choices.targets import Target
from lossline.cluster import WorkLost, connect
from lossline.errors import UserError
from lossline.installing import install_extra
from lossline.options.identity import identity
from lossline.pages.cleaning import clean_pages
from lossline.pages.cut import cut
from lossline.pages.languages import detector_is_installed
from lossline.pages.methods import LanguageFilter, PositiveClassifier, Uniform
from lossline.pages.overlap import Overlap, benchmark_overlap
from lossline.pages.page_set import PageSet, as_set
from lossline.pages.task import PageMethod, SelectionTask
from lossline.terminal import Say, silent
from lossline.vocabularies import VocabularySpec


def choose(
    options: ChooseOptions,
    vocabulary: VocabularySpec | None = None,
    *,
    scores: pd.DataFrame | None = None,
    losses: pd.DataFrame | None = None,
    pool_fingerprint: str = "",
    pool: OpenPool | None = None,
    processes: int = 1,
    say: Say = silent,
) -> Choices:
    """Select pages for every target by every method.

    Args:
        options: the options.
        vocabulary: tokenizer that counts the budget; needed with a pool.
        scores: score table (``lossline.tables.scores``); needed for perplexity correlations.
        losses: loss table of the scored models.
        pool_fingerprint: ``options.pool.fingerprint()``.
        pool: ``options.pool``, if it is open already.
        processes: number of processes of this machine, if it is not.
        say: receives a line of progress per step.

    Raises:
        UserError: the scores belong to another pool, a benchmark is unknown, a method lacks what it
            needs, or the budget is larger than what there is to select from.
    """
    with contextlib.ExitStack() as stack:
        if options.pool is not None and pool is None:
            engine = stack.enter_context(connect("local", processes=processes))
            work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            say("reading the pool")
            pool = open_pool(options.pool, engine, work, say=say)
        return _choose_all(options, vocabulary, scores, losses, pool_fingerprint, pool, say)


def _choose_all(
    options: ChooseOptions,
    vocabulary: VocabularySpec | None,
    scores: pd.DataFrame | None,
    losses: pd.DataFrame | None,
    pool_fingerprint: str,
    pool: OpenPool | None,
    say: Say,
) -> Choices:
    pages: PageSet | None = None
    domains, overlap = pd.DataFrame(columns=list(DOMAIN_COLUMNS)), pd.DataFrame()
    leaked = 0
    if pool is not None:
        found = _benchmark_text(options, pool.pages, say)
        overlap, leaked = found.domains, int(found.pages.sum())
        say("near-duplicates")
        remove = options.benchmark_text is BenchmarkText.REMOVE
        clean = clean_pages(
            pool.pages,
            duplicate_threshold=options.duplicates,
            benchmark_text=found.pages if remove else None,
        )
        pages = as_set(clean.pages)
        domains = _with_bytes(pages, clean.table)
    estimates = NO_ESTIMATES
    if options.correlates:
        assert scores is not None, "perplexity correlations without scores"
        say("coefficients of the domains")
        estimates = estimate_domains(options, scores, losses, domains, pool_fingerprint)
    choices = []
    for target, name, method in _jobs(options) if pages is not None else ():
        assert pages is not None and vocabulary is not None, "a budget without a tokenizer"
        say(f"{target.name if target else ANY}: {name}")
        chosen = _choose(options, target, name, method, pages, estimates, vocabulary)
        choices.append(chosen)
    if choices:
        say("make-up of the selections")
    return Choices(
        choices=tuple(choices),
        coefficients=estimates.coefficients,
        heldout=estimates.heldout,
        overlap=overlap,
        composition=composition(pages, choices),
        domains=domains,
        pool_fingerprint=pool_fingerprint,
        present=pool.index.names if pool else (),
        scores_fingerprint=estimates.fingerprint,
        notes=(
            *_pool_notes(options, pool, overlap, leaked),
            *_shortage_notes(options, choices),
            *estimates.notes,
        ),
    )


def _benchmark_text(options: ChooseOptions, pages: PageSet, say: Say) -> Overlap:
    say(f"benchmark text in {len(pages):,} pages")
    root = options.data_root
    items = {name: some for t in options.targets for name, some in t.items(root).items()}
    return benchmark_overlap(pages, items)


def _with_bytes(pages: PageSet, table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per domain of the pool with ``DOMAIN_COLUMNS``."""
    sizes = {name: int(pages.sizes[own].sum()) for name, own in pages.by_domain().items()}
    kept = table["domain"].map(sizes).fillna(0).astype("int64")
    return table.assign(bytes=kept).loc[:, list(DOMAIN_COLUMNS)]


def _jobs(options: ChooseOptions) -> Iterator[tuple[Target | None, str, PageMethod]]:
    """Yield every selection: methods that do not depend on the target once, without a target."""
    for name, method in options.methods.items():
        if not _depends_on_target(method):
            yield None, name, method
    for target in options.targets:
        for name, method in options.methods.items():
            if _depends_on_target(method):
                yield target, name, method


def _depends_on_target(method: PageMethod) -> bool:
    if isinstance(method, PositiveClassifier):
        return not method.files
    return not isinstance(method, (Uniform, LanguageFilter))


def _choose(
    options: ChooseOptions,
    target: Target | None,
    name: str,
    method: PageMethod,
    pages: PageSet,
    estimates: Estimates,
    vocabulary: VocabularySpec,
) -> Choice:
    target_name = target.name if target else ""
    weights: dict[str, float] = {}
    if isinstance(method, PerplexityCorrelations):
        weights = estimates.weights_of(target_name, name)
    task = SelectionTask(
        target=target_name,
        texts=target.read_texts(options.data_root) if target else (),
        domains=target.domains if target else (),
        weights=weights,
        seed=options.seed,
    )
    try:
        ranking = method.rank(pages, task)
        taken = cut(
            pages,
            ranking,
            budget=options.budget,
            vocabulary=vocabulary,
            shortage=options.shortage,
            selected_only=True,
        )
    except WorkLost:  # not the fault of the method
        raise
    except UserError as error:
        raise UserError(f"{target_name or ANY}/{name}: {error}") from error
    return Choice(
        method=name,
        target=target_name,
        # The numbers of all pages would be kept for each selection.
        ranking=dataclasses.replace(ranking, scores=np.empty(0), candidate=np.empty(0, bool)),
        cut=taken,
        options=identity(method),
        weights=weights,
    )


def _pool_notes(
    options: ChooseOptions, pool: OpenPool | None, overlap: pd.DataFrame, leaked: int
) -> Iterator[str]:
    if pool is None:
        return
    if left_out := pool.index.left_out:
        yield f"Domains without pages are left out of the pool: {', '.join(left_out)}."
    if not detector_is_installed():
        yield f"Languages are not reported: py3langid is missing; {install_extra('selection')}"
    if leaked:
        worst = overlap.sort_values("overlapping", ascending=False).iloc[0]
        removed = options.benchmark_text is BenchmarkText.REMOVE
        what = (
            "were removed"
            if removed
            else ("are kept; select.benchmark_text = 'remove' removes them")
        )
        yield (
            f"{leaked} pages contain text of a benchmark ({worst['overlapping']} of them in "
            f"{worst['domain']}, of {worst['benchmark']}); they {what}."
        )


def _shortage_notes(options: ChooseOptions, choices: Sequence[Choice]) -> Iterator[str]:
    """Name the selections that are below the budget, which is only so with TAKE_ALL."""
    below = [choice for choice in choices if choice.cut.tokens < options.budget]
    if below:
        shown = ", ".join(f"{choice.folder} ({choice.cut.tokens:,} tokens)" for choice in below)
        yield f"All candidate pages are taken, and are fewer than the budget: {shown}."
