"""Options and results of a selection of pages."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from lossline.choices.correlation_method import PerplexityCorrelations
from lossline.choices.targets import Target
from lossline.corpora.pools import Pool
from lossline.errors import UserError
from lossline.pages.cut import Cut, Shortage
from lossline.pages.task import PageMethod, Ranking
from lossline.places import check_folder_name

ANY = "any"  # folder of the methods that do not depend on the target
POOL = "pool"  # the whole pool, as a "method" in the composition
_TAKEN = (ANY, POOL, "figures")  # folders of the results that are not those of a target …
_SUFFIXES = (".csv", ".html", ".json", ".parquet", ".txt")  # … and their files
COMPOSITION_COLUMNS = ("target", "method", "part", "level", "pages", "bytes", "share")
DOMAIN_COLUMNS = ("domain", "pages", "kept", "bytes", "near_duplicates", "benchmark_text")


class BenchmarkText(enum.Enum):
    """What to do with pages that contain benchmark text. Either way they are counted."""

    REPORT = "report"
    REMOVE = "remove"


@dataclass(frozen=True, kw_only=True)
class ChooseOptions:
    """Options of the selection itself.

    Attributes:
        pool: pages to select from. None: only estimate the coefficients of the domains.
        targets: what to select for. Default: each benchmark of the score tables.
        methods: name -> method; the name is the name of the method's folder.
        budget: tokens of each selection, by the tokenizer of the runs.
        train_tokens: tokens that a model will be trained on, to state the epochs. 0: not stated.
        duplicates: share of repeated word 8-grams that makes a page a near-duplicate of other
            pages; such pages are dropped first. None keeps them.
        benchmark_text: whether pages that contain text of the targets' benchmarks are removed or
            only reported.
        shortage: what to do if a method has fewer pages than the budget: refuse, or take all of
            them, which a training then reads more often.
        resamples: bootstrap resamples over models for the intervals of coefficients.
        confidence: level of these intervals.
        seed: seed of everything random: methods, resamples, folds.
    """

    pool: Pool | None = None
    targets: tuple[Target, ...] = ()
    methods: Mapping[str, PageMethod] = field(
        default_factory=lambda: {"perplexity_correlations": PerplexityCorrelations()}
    )
    budget: int = 0
    train_tokens: int = 0
    duplicates: float | None = 0.5
    benchmark_text: BenchmarkText = BenchmarkText.REPORT
    shortage: Shortage = Shortage.REFUSE
    resamples: int = 1000
    confidence: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        names = [target.name for target in self.targets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"select.targets: two targets are named {twice[0]!r}. Rename one.")
        for name in names:
            check_folder_name(name, "target.name")
            if name in _TAKEN or Path(name).suffix in _SUFFIXES:
                raise UserError(
                    f"select.targets: {name!r} cannot name a target: results use this name. Rename "
                    "it."
                )
        if not self.methods:
            raise UserError("select.methods is empty. Give at least one method.")
        for name, method in self.methods.items():
            check_folder_name(name, "select.methods: a name")
            if name == POOL:
                raise UserError(f"select.methods: {name!r} cannot name a method. Rename it.")
            if not callable(getattr(method, "rank", None)):
                raise UserError(
                    f"select.methods: {name!r} is {type(method).__name__}, which ranks no pages. "
                    "Bind a method, such as @uniform()."
                )
        if self.duplicates is not None and not 0 < self.duplicates <= 1:
            raise UserError(
                f"select.duplicates = {self.duplicates:g}: give a share above 0 and at most 1, or "
                "None to keep near-duplicates."
            )
        if self.train_tokens < 0:
            raise UserError(f"select.train_tokens = {self.train_tokens}: must not be negative.")
        if self.pool is None and not self.correlates:
            raise UserError(
                "select.methods: without a pool only @perplexity_correlations() does anything. "
                "Bind select.pool, or add that method."
            )
        for target in self.targets:
            self._check_benchmarks(target)
        if self.pool is not None:
            self._check_with_pool()

    def _check_with_pool(self) -> None:
        if not self.targets:
            raise UserError("select.targets is empty. Bind (@target(),).")
        if self.budget < 1:
            raise UserError(
                f"select.budget = {self.budget}: give the number of tokens to select, at least 1."
            )

    def _check_benchmarks(self, target: Target) -> None:
        for name, method in self.methods.items():
            if isinstance(method, PerplexityCorrelations) and not target.benchmarks:
                raise UserError(
                    f"target {target.name}: method {name!r} needs target.benchmarks. Bind them."
                )

    @property
    def data_root(self) -> Path:
        """Data root of the pool, where benchmarks and texts of the targets are gathered."""
        return Path(self.pool.root) if self.pool else Path("data")

    @property
    def correlates(self) -> bool:
        """Whether a method needs scores."""
        return any(isinstance(m, PerplexityCorrelations) for m in self.methods.values())


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One selection.

    Attributes:
        method: name of the method.
        target: name of the target; "" if the method does not depend on it.
        ranking: facts and model of the method; its numbers of all pages are not kept.
        cut: selected pages; its table has only these.
        options: options of the method, as JSON.
        weights: domain -> weight, for perplexity correlations.
    """

    method: str
    target: str
    ranking: Ranking
    cut: Cut
    options: Mapping[str, Any]
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder of the selection below the output folder."""
        return f"{self.target or ANY}/{self.method}"


@dataclass(frozen=True, kw_only=True)
class Choices:
    """All selections, with what led to them.

    Attributes:
        choices: one per target and method; empty without a pool.
        coefficients: one row per target, method and domain.
        heldout: how well each target's order of held-out models is predicted.
        overlap: benchmark text in the pool: one row per domain and benchmark.
        composition: what pool and selections consist of, by domain, language and length.
        domains: one row per domain of the pool: pages, pages and bytes kept, and the pages left out
            as near-duplicates and for benchmark text.
        pool_fingerprint: fingerprint of the pool.
        present: domains of the pool that have pages.
        scores_fingerprint: hash of the scores and losses that the coefficients come from.
        notes: what to know about the results, one sentence each.
    """

    choices: tuple[Choice, ...]
    coefficients: pd.DataFrame
    heldout: pd.DataFrame
    overlap: pd.DataFrame
    composition: pd.DataFrame
    domains: pd.DataFrame
    pool_fingerprint: str = ""
    present: tuple[str, ...] = ()
    scores_fingerprint: str = ""
    notes: tuple[str, ...] = ()
