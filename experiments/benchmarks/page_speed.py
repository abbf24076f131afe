"""Measure hashing, page classifiers, DSIR and cleaning on the same pages as their peers.

    python experiments/benchmarks/page_speed.py --domains wiki pubmed python legal poetry

Needs gathered corpora (`python -m lossline.gather`) and the extras [selection] and [peers]. A peer
that is not installed is left out. All run in one thread; times are CPU seconds, the best of
interleaved rounds; MB are 10^6 bytes of UTF-8.

The quality of the classifiers is measured on a planted task: passages of 250 characters, and those
of PubMed that contained the word "patients", which is removed, are the class to find. The script
prints a table and writes page_speed.json next to this file.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from lossline.corpora.pools import Page, Pool
from lossline.pages import FastText, HashedLogistic, clean_pages
from lossline.pages.dsir import ImportanceWeights
from lossline.pages.hashing import chunks, hash_ngrams
from lossline.pages.languages import languages
from lossline.pages.quality import quality

Jobs = dict[str, Callable[[], object]]
PEERS = ("scikit-learn", "fasttext-community", "data-selection", "py3langid")
PIECE, WORD = 250, "patients"


def best_seconds(jobs: Jobs, rounds: int) -> dict[str, float]:
    """Return the CPU seconds of each job, the best of interleaved rounds."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            with contextlib.redirect_stderr(io.StringIO()):  # progress bars
                job()
            best[name] = min(best[name], time.process_time() - start)
    return best


def megabytes(texts: Sequence[str]) -> float:
    """Return the size of texts in UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def read_pages(pool: Pool, limit: float) -> list[Page]:
    """Return the first ``limit`` MB of each domain, in random order."""
    kept, size = [], dict.fromkeys(pool.names(), 0.0)
    for page in pool.pages():
        if size[page.domain] < limit:
            kept.append(page)
            size[page.domain] += megabytes([page.text])
    random.Random(0).shuffle(kept)
    return kept


def sklearn_texts() -> object:
    """Return scikit-learn's vectorizer with our n-grams and buckets."""
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(ngram_range=(1, 2), n_features=1 << 18, alternate_sign=False)


def hashing(texts: Sequence[str]) -> Jobs:
    """Hash all unigrams and bigrams."""
    jobs: Jobs = {"ours": lambda: [hash_ngrams(chunk, 2) for chunk in chunks(texts)]}
    if installed("scikit-learn"):
        jobs["HashingVectorizer"] = lambda: sklearn_texts().transform(texts)  # type: ignore[attr-defined]
    return jobs


def importance(texts: Sequence[str], target: Sequence[str], folder: Path) -> tuple[Jobs, dict]:
    """Fit DSIR on target and pages, and weigh the pages."""
    found: dict[str, np.ndarray] = {}

    def ours() -> None:
        weights = ImportanceWeights.fit(target, texts, buckets=10_000, longest=2)
        found["ours"] = weights.score(texts)[0]

    jobs: Jobs = {"ours": ours}
    if not installed("data-selection"):
        return jobs, found
    files = []
    for name, rows in (("raw", texts), ("target", target)):
        files.append([str(folder / f"{name}.jsonl")])
        Path(files[-1][0]).write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))

    def package() -> None:
        from data_selection import HashedNgramDSIR

        dsir = HashedNgramDSIR(*files, cache_dir=str(folder / "cache"), num_proc=1)
        dsir.fit_importance_estimator(num_tokens_to_fit="all")
        dsir.compute_importance_weights()
        found["data-selection"] = np.load(folder / "cache" / "log_importance_weights" / "0.npy")

    jobs["data-selection"] = package
    return jobs, found


def passages(pages: Sequence[Page], count: int) -> tuple[list[str], np.ndarray]:
    """Return the passages of the planted task and their classes."""
    pieces = [
        (page.domain, page.text[start : start + PIECE])
        for page in pages
        for start in range(0, min(len(page.text), 2000), PIECE)
    ][:count]
    found = [domain == "pubmed" and WORD in text for domain, text in pieces]
    return [text.replace(WORD, "") for _, text in pieces], np.array(found)


class Sklearn:
    """A linear model of scikit-learn on hashed n-grams, with the interface of our classifiers."""

    def __init__(self, name: str) -> None:
        from sklearn import linear_model

        self.model = (
            linear_model.SGDClassifier(loss="log_loss", random_state=0)
            if name == "SGD"
            else linear_model.LogisticRegression(C=10, max_iter=500)
        )

    def fit(self, texts: Sequence[str], included: np.ndarray, weights: np.ndarray, *, seed: int):
        """Fit the model."""
        self.model.fit(sklearn_texts().transform(texts), included, sample_weight=weights)  # type: ignore[attr-defined]
        return self

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Return P(included)."""
        return self.model.predict_proba(sklearn_texts().transform(texts))[:, 1]  # type: ignore[attr-defined]


def classifiers(pages: Sequence[Page], count: int, rounds: int) -> list[dict[str, object]]:
    """Train and predict on the planted task, three quarters against one."""
    texts, included = passages(pages, count)
    edge = 3 * len(texts) // 4
    share = included[:edge].mean()
    weights = np.where(included[:edge], 0.5 / share, 0.5 / (1 - share))
    contenders: dict[str, object] = {"ours": HashedLogistic()}
    if installed("scikit-learn"):
        contenders |= {f"HashingVectorizer + {n}": Sklearn(n) for n in ("SGD", "logistic")}
    if installed("fasttext-community"):
        contenders["fastText, our defaults"] = FastText()
        contenders["fastText, its defaults"] = FastText(epochs=5, learning_rate=0.1)
    models: dict[str, object] = {}

    def fit(name: str) -> None:
        models[name] = contenders[name].fit(texts[:edge], included[:edge], weights, seed=0)  # type: ignore[attr-defined]

    training = best_seconds({n: lambda n=n: fit(n) for n in contenders}, rounds)  # type: ignore[misc]
    found = {
        name: quality(model.probabilities(texts[edge:]), included[edge:])  # type: ignore[attr-defined]
        for name, model in models.items()
    }
    # Whole pages, as selection sees them, and easy classes.
    long = [page.text for page in pages]
    own = np.array([page.domain in ("pubmed", "wiki") for page in pages])

    def fit_pages(name: str) -> None:
        models[name] = contenders[name].fit(long, own, np.ones(len(own)), seed=0)  # type: ignore[attr-defined]

    whole = best_seconds({n: lambda n=n: fit_pages(n) for n in contenders}, rounds)  # type: ignore[misc]
    prediction = best_seconds(
        {n: lambda n=n: models[n].probabilities(long) for n in models},  # type: ignore[misc, attr-defined]
        rounds,
    )
    return [
        {
            "contender": name,
            "training_on_passages_MB_per_s": megabytes(texts[:edge]) / training[name],
            "training_on_pages_MB_per_s": megabytes(long) / whole[name],
            "prediction_MB_per_s": megabytes(long) / prediction[name],
            "auc": found[name]["auc"],
            "f1": found[name]["f1"],
        }
        for name in contenders
    ]


def installed(name: str) -> bool:
    """Return whether a distribution is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    """Measure everything, print it and write it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", default="data")
    parser.add_argument("--domains", nargs="+", required=True)
    parser.add_argument("--megabytes", type=float, default=2.0, help="text of each domain")
    parser.add_argument("--target", default="pubmed", help="domain whose pages are DSIR's target")
    parser.add_argument("--passages", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    if not {"pubmed", options.target} <= set(options.domains):
        sys.exit("page_speed: error: --domains must contain pubmed and --target")
    pages = read_pages(Pool(root=options.root, domains=tuple(options.domains)), options.megabytes)
    texts = [page.text for page in pages]
    size = megabytes(texts)
    hash_ngrams(["x"], 2)  # builds the tables of characters, once per process
    results: dict[str, object] = {"pages": len(pages), "MB": size}
    rates = {n: size / s for n, s in best_seconds(hashing(texts), options.rounds).items()}
    results["hashing_MB_per_s"] = rates
    target = [page.text[:1000] for page in pages if page.domain == options.target][:200]
    with tempfile.TemporaryDirectory() as folder:
        jobs, found = importance(texts, target, Path(folder))
        rates = {n: size / s for n, s in best_seconds(jobs, options.rounds).items()}
    results["dsir_MB_per_s"] = rates
    if "data-selection" in found:
        results["dsir_rank_correlation"] = rank_correlation(*found.values())
        results["dsir_times_faster"] = rates["ours"] / rates["data-selection"]
    results["classifiers"] = classifiers(pages, options.passages, options.rounds)
    others: Jobs = {"near-duplicates": lambda: clean_pages(pages)}
    if installed("py3langid"):
        others["language (py3langid)"] = lambda: languages(texts)
    seconds = best_seconds(others, 1)
    results["other_MB_per_s"] = {name: size / s for name, s in seconds.items()}
    report = {
        "command": f"python experiments/benchmarks/page_speed.py {' '.join(sys.argv[1:])}",
        "environment": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            **{name: metadata.version(name) for name in PEERS if installed(name)},
        },
        "results": results,
    }
    text = json.dumps(report, indent=2)
    print(text)
    partial = options.out.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.replace(options.out)


def rank_correlation(one: np.ndarray, two: np.ndarray) -> float:
    """Return Spearman's correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, two)]
    return float(np.corrcoef(*ranks)[0, 1])


if __name__ == "__main__":
    main()
