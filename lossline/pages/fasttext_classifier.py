"""fastText as a page classifier (package fasttext-community, extra [selection])."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lossline.errors import UserError
from lossline.files import replacing
from lossline.installing import install_extra
from lossline.pages.draws import uniform
from lossline.pages.hashing import space_words

_LABEL = "__label__"
_YES, _NO = f"{_LABEL}included", f"{_LABEL}excluded"


@dataclass(frozen=True, kw_only=True)
class FastText:
    """Gin component: fastText's supervised classifier (Joulin et al., EACL 2017).

    It runs in one thread: only then is its training reproducible. ``word_ngrams`` is the paper's
    (perplexity correlations). Learning rate and epochs are near those of fastText's tutorial for
    small data; its defaults (0.1, 5) underfit thousands of pages. 200,000 buckets of 32 numbers
    make a file of about 30 MB instead of 800.

    Attributes:
        word_ngrams: words of the longest n-gram.
        dimension: numbers per word.
        buckets: hash buckets of the n-grams.
        epochs: passes over the training pages.
        learning_rate: learning rate.
    """

    word_ngrams: int = 2
    dimension: int = 32
    buckets: int = 200_000
    epochs: int = 25
    learning_rate: float = 0.5

    def fit(
        self, texts: Sequence[str], included: np.ndarray, weights: np.ndarray, *, seed: int
    ) -> FittedFastText:
        """Fit the classifier.

        fastText knows no weights: as many pages as there are, half of each class, are drawn from
        them in proportion to their weights.

        Args:
            texts: training texts.
            included: bool [texts]: the class of each.
            weights: float64 [texts]: weight of each; their scale does not matter.
            seed: seed of the draw, the order and fastText.

        Raises:
            UserError: fastText is not installed.
        """
        package = _package()
        order = _resampled(included, weights, seed)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pages.txt"
            path.write_text(
                "".join(f"{_YES if included[i] else _NO} {as_line(texts[i])}\n" for i in order),
                encoding="utf-8",
            )
            model = package.train_supervised(
                str(path),
                wordNgrams=self.word_ngrams,
                dim=self.dimension,
                bucket=self.buckets,
                epoch=self.epochs,
                lr=self.learning_rate,
                seed=seed % 2**31,
                thread=1,
                verbose=0,
            )
        return FittedFastText(model, {"epochs": self.epochs})


@dataclass(frozen=True)
class FittedFastText:
    """A fitted fastText classifier.

    Attributes:
        model: model of the package.
        facts: passes over the training pages.
    """

    SUFFIX: ClassVar[str] = ".bin"
    model: Any
    facts: dict[str, Any] = field(default_factory=dict)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return P(included) of each text, float64 [texts]."""
        if not len(texts):
            return np.empty(0)
        labels, values = self.model.predict([as_line(text) for text in texts], k=2)
        found = (dict(zip(*pair, strict=True)) for pair in zip(labels, values, strict=True))
        # A text without any known word gets no label: it is as likely as not.
        return np.array([own.get(_YES, 1 - own.get(_NO, 0.5)) for own in found], np.float64)

    def save(self, path: Path) -> None:
        """Write the model in fastText's own format."""
        with replacing(path) as partial:
            self.model.save_model(str(partial))

    @classmethod
    def load(cls, path: Path) -> FittedFastText:
        """Read a model that ``save`` wrote.

        Raises:
            UserError: fastText is not installed, or the file is missing or something else.
        """
        try:
            return cls(_package().load_model(str(path)))
        except ValueError as error:
            raise UserError(f"{path}: not a fastText model ({error}). Correct the path.") from error


def as_line(text: str) -> str:
    """Return a text as one line of fastText, in lower case.

    fastText reads one example per line, ends it at the word ``</s>``, and takes a word that starts
    with ``__label__`` for a class.
    """
    words = space_words(text.lower()).split()
    return " ".join(w for w in words if w != "</s>" and not w.startswith(_LABEL))


def _resampled(included: np.ndarray, weights: np.ndarray, seed: int) -> np.ndarray:
    """Return positions in random order, half of each class, in proportion to the weights."""
    half = (len(included) + 1) // 2
    drawn = []
    for label in (True, False):
        own = np.flatnonzero(included == label)
        edges = np.cumsum(weights[own])
        # Systematic resampling: a page is drawn its expected number of times, up to rounding.
        drawn.append(own[np.searchsorted(edges, (np.arange(half) + 0.5) / half * edges[-1])])
    both = np.concatenate(drawn)
    return both[np.argsort(uniform(map(str, range(len(both))), seed=seed, purpose="order"))]


def _package() -> Any:
    try:
        import fasttext
    except ImportError as error:
        raise UserError(
            f"fast_text: the package fasttext-community is missing; {install_extra('selection')}."
        ) from error
    return fasttext
