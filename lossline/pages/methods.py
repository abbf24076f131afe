"""The methods of the gin slot: each ranks the pages of a pool for a task.

No method sees pages that models are scored on, or losses of models trained on a selection. Defaults
come from the papers and packages named, or are neutral; none was tuned on a target.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from lossline.corpora import utf8
from lossline.corpora.deduplication import content_hash
from lossline.corpora.json_lines import kind_of, matching_files, read_objects
from lossline.corpora.pools import Page
from lossline.errors import UserError
from lossline.pages.draws import gumbel, uniform
from lossline.pages.dsir import ImportanceWeights, bucket_counts
from lossline.pages.examples import Group
from lossline.pages.languages import languages
from lossline.pages.logistic import HashedLogistic
from lossline.pages.page_set import LazyTexts, PageSet, as_set
from lossline.pages.quality import THRESHOLD
from lossline.pages.task import FittedModel, Ranking, SelectionTask, TextClassifier
from lossline.pages.training import TrainingPages, train


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """Gin component: pages in random order, whatever their domain."""

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages; see ``PageMethod``."""
        given = as_set(pages)
        return Ranking(_random(given, task), np.ones(len(given), bool), {})


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Gin component: pages of the target's own domains only, in random order.

    An upper bound that knows where the target comes from.

    Attributes:
        domains: the target's own domains. Default: those of the task.
    """

    domains: tuple[str, ...] = ()

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages; see ``PageMethod``."""
        given = as_set(pages)
        domains = self.domains or task.domains
        if not domains:
            raise UserError(
                f"oracle: target {task.target} names no domains of its own. Give target.domains or "
                "oracle.domains."
            )
        _require_domains(domains, given, "oracle.domains")
        own = np.array([name in domains for name in given.names])[given.domain_of]
        return Ranking(_random(given, task), own, {"domains": list(domains)})


@dataclass(frozen=True, kw_only=True)
class LanguageFilter:
    """Gin component: pages in the given languages only, in random order.

    Attributes:
        languages: ISO 639 codes, as py3langid writes them ("en", "zh").
    """

    languages: tuple[str, ...] = ("en",)

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages; see ``PageMethod``."""
        given = as_set(pages)
        found = np.concatenate(given.map(_languages, what="languages"))
        counts = dict(sorted(Counter(found.tolist()).items()))
        own = np.isin(found, self.languages)
        if not own.any():
            raise UserError(
                f"language_filter.languages = {self.languages}: no page is in these languages; "
                f"the pool has {', '.join(counts)}. Name other codes."
            )
        facts = {"languages": list(self.languages), "pages_by_language": counts}
        return Ranking(_random(given, task), own, facts)


class Sampling(enum.Enum):
    """How DSIR orders pages: by importance resampling, or the heaviest first."""

    GUMBEL = "gumbel"
    TOP = "top"


@dataclass(frozen=True, kw_only=True)
class Dsir:
    """Gin component: importance resampling by hashed n-grams (DSIR; Xie et al., NeurIPS 2023).

    The score is the log importance weight of the page, a sum over its n-grams, plus Gumbel noise;
    taking the highest scores first samples without replacement. Defaults are those of the package
    data-selection 1.0.3.

    Attributes:
        buckets: hash buckets of the n-grams.
        longest: words of the longest n-gram.
        fewest_words: pages with fewer words are no candidates.
        sampling: resampling (``GUMBEL``) or the heaviest pages first (``TOP``).
    """

    buckets: int = 10_000
    longest: int = 2
    fewest_words: int = 100
    sampling: Sampling = Sampling.GUMBEL

    def __post_init__(self) -> None:
        if self.buckets < 2 or self.longest < 1:
            raise UserError(
                f"dsir: buckets = {self.buckets}, longest = {self.longest}: give at least 2 "
                "buckets and n-grams of at least 1 word."
            )

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages; see ``PageMethod``.

        Raises:
            UserError: the task has no texts, or no page has enough words.
        """
        given = as_set(pages)
        target = _target_texts(task, "dsir")
        count = partial(bucket_counts, buckets=self.buckets, longest=self.longest)
        raw = np.sum(given.map(count, what="n-grams"), axis=0)
        if not raw.any():
            raise UserError("dsir: all pages of the pool are empty. Choose another pool.")
        weights = ImportanceWeights.of_counts(count(target), raw, longest=self.longest)
        parts = given.map(weights.score, what="importance weights")
        scores, words = (np.concatenate(own) for own in zip(*parts, strict=True))
        long_enough = words >= self.fewest_words
        if not long_enough.any():
            raise UserError(
                f"dsir.fewest_words = {self.fewest_words}: the longest page has {words.max()} "
                "words. Lower it."
            )
        facts = {
            "target_texts": len(target),
            "pages_too_short": int((~long_enough).sum()),
            "mean_log_weight": float(scores[long_enough].mean()),
        }
        if self.sampling is Sampling.GUMBEL:
            scores = scores + gumbel(given.ids(), seed=task.seed, purpose="dsir")
        return Ranking(scores, long_enough, facts)


@dataclass(frozen=True, kw_only=True)
class PageClassifier:
    """Gin component: perplexity correlations (Thrush et al., ICLR 2025).

    A classifier learns to tell pages of domains with a positive weight from pages of the other
    domains; pages are ranked by P(included), whatever their own domain. In training, both classes
    weigh the same; an included domain weighs as its weight, an excluded one as its pages. Domains
    that ``task.weights`` does not name train nothing, and their pages are ranked too; a domain with
    a weight and without pages is named in the facts.

    Attributes:
        classifier: the classifier.
        training: the pages that it is trained and tested on.
    """

    classifier: TextClassifier = field(default_factory=HashedLogistic)
    training: TrainingPages = field(default_factory=TrainingPages)

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages; see ``PageMethod``.

        Raises:
            UserError: there is no included or no excluded domain with pages, or a class has too
                few pages.
        """
        given = as_set(pages)
        included = _included(task, given)
        groups = [
            _group(domain, given, own, domain in included, task.weights[domain])
            for domain, own in given.by_domain().items()
            if domain in task.weights
        ]
        if all(group.included for group in groups):
            raise UserError(
                f"page_classifier: all {len(groups)} domains of target {task.target} are included, "
                "so there is nothing to tell apart. Include fewer domains (a smaller "
                "filter_ratio), or rank by @uniform()."
            )
        absent = sorted(set(task.weights) - {group.name for group in groups})
        return _classified(
            self.classifier, self.training, groups, given, task, {"domains_without_pages": absent}
        )


@dataclass(frozen=True, kw_only=True)
class PositiveClassifier:
    """Gin component: a classifier of given positives against the pool (DCLM; Li et al., 2024).

    Pages are ranked by P(positive). Any page of the pool counts as negative, as in the paper, where
    the positives are 200,000 texts of instruction data and the classifier is fastText.

    Attributes:
        files: JSON lines (paths or globs) with the positive texts; empty takes the target's own
            texts.
        text_field: key of the text.
        classifier: the classifier.
        training: the texts and pages that it is trained and tested on.
    """

    files: tuple[str, ...] = ()
    text_field: str = "text"
    classifier: TextClassifier = field(default_factory=HashedLogistic)
    training: TrainingPages = field(default_factory=TrainingPages)

    def rank(self, pages: Sequence[Page], task: SelectionTask) -> Ranking:
        """Rank the pages; see ``PageMethod``.

        Raises:
            UserError: there are no positives, a file cannot be read, or a class has too few pages.
        """
        given = as_set(pages)
        positives = self._positives(task)
        groups = [
            _group(domain, given, own, False, 0.0) for domain, own in given.by_domain().items()
        ]
        groups.append(
            Group(
                name="positives",
                included=True,
                mass=1.0,
                ids=[content_hash(text) for text in positives],
                texts=positives,
            )
        )
        return _classified(
            self.classifier, self.training, groups, given, task, {"positives": len(positives)}
        )

    def _positives(self, task: SelectionTask) -> list[str]:
        if not self.files:
            return _target_texts(task, "positive_classifier")
        texts = []
        for path in matching_files(self.files, "positive_classifier.files"):
            for where, record in read_objects(path):
                text = record.get(self.text_field)
                if not isinstance(text, str) or not text.strip():
                    found = kind_of(text) if self.text_field in record else "missing"
                    raise UserError(
                        f"{where}: {self.text_field!r} is {found}, not text. Fix the line or "
                        "positive_classifier.text_field."
                    )
                utf8.require(text, where)
                texts.append(text)
        return texts


def _classified(
    classifier: TextClassifier,
    training: TrainingPages,
    groups: Sequence[Group],
    pages: PageSet,
    task: SelectionTask,
    own_facts: Mapping[str, object],
) -> Ranking:
    """Train on the groups and rank all pages by P(included)."""
    model, facts = train(classifier, groups, training, seed=task.seed)
    parts = pages.map(partial(_probabilities, pages.share(model)), what="page scores")
    scores = np.concatenate(parts)
    facts |= own_facts
    facts["pool"] = [
        {
            "domain": domain,
            "pages": len(own),
            "predicted": int((scores[own] >= THRESHOLD).sum()),
        }
        for domain, own in pages.by_domain().items()
    ]
    return Ranking(scores, np.ones(len(pages), bool), facts, model)


def _probabilities(model: Callable[[], FittedModel], texts: Sequence[str]) -> np.ndarray:
    return model().probabilities(texts)


def _languages(texts: Sequence[str]) -> np.ndarray:
    return np.array(languages(texts), str)


def _included(task: SelectionTask, pages: PageSet) -> list[str]:
    """Return the domains with a positive weight and pages."""
    positive = [domain for domain, weight in task.weights.items() if weight > 0]
    if not positive:
        raise UserError(
            f"page_classifier: no domain has a positive weight for target {task.target}. Give the "
            "weights of an estimate, or choose a method that needs none."
        )
    present = pages.by_domain()
    included = [domain for domain in positive if domain in present]
    if not included:
        _require_domains(positive, pages, "page_classifier, domains with a positive weight")
    return included


def _target_texts(task: SelectionTask, method: str) -> list[str]:
    texts = [text for text in task.texts if text.strip()]
    if not texts:
        raise UserError(
            f"{method}: target {task.target} has no texts of its own. Give its questions, or "
            "choose another method."
        )
    for number, text in enumerate(texts):
        utf8.require(text, f"{method}: text {number} (from 0) of target {task.target}")
    return texts


def _require_domains(domains: Iterable[str], pages: PageSet, where: str) -> None:
    present = pages.by_domain()
    absent = [domain for domain in domains if domain not in present]
    if absent:
        some = ", ".join(sorted(present)[:8]) + (", …" if len(present) > 8 else "")
        raise UserError(
            f"{where}: the pool has no pages of {absent[0]!r}; it has {some}. Name a domain of the "
            "pool, or score the pool again."
        )


def _group(domain: str, pages: PageSet, own: np.ndarray, included: bool, weight: float) -> Group:
    positions = own.tolist()
    return Group(
        name=domain,
        included=included,
        mass=weight if included else float(len(own)),
        ids=pages.ids(positions),
        texts=LazyTexts(pages, positions),
    )


def _random(pages: PageSet, task: SelectionTask) -> np.ndarray:
    return uniform(pages.ids(), seed=task.seed, purpose="order of pages")
