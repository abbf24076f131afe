"""A small pool of pages on disk, and scores of planted models on its domains."""

import json
from pathlib import Path

import numpy as np

from lossline.corpora.deduplication import content_hash
from lossline.tables import scores

WORDS = {
    "code": "def return import self class lambda yield print range list dict loop value index",
    "verse": "rose moon night heart silver dream sea wind song light summer star dew love",
    "law": "party shall hereby agreement clause liability court license warranty notice terms",
    "news": "minister market shares percent million company bank year trade government oil",
}


def page_text(domain: str, number: int, words: int = 120) -> str:
    generator = np.random.default_rng([number, sum(map(ord, domain))])
    return " ".join(generator.choice(WORDS[domain].split(), words)) + f" {domain}{number}\n"


def write_pool(root: Path, *, train: int = 40, validation: int = 12) -> None:
    """Write the domains of ``WORDS`` as gathered corpora, and a benchmark about code."""
    for domain in WORDS:
        folder = root / "text" / domain
        folder.mkdir(parents=True)
        for split, numbers in (
            ("train", range(train)),
            ("validation", range(1000, 1000 + validation)),
        ):
            pages = sorted((page_text(domain, number) for number in numbers), key=content_hash)
            lines = [json.dumps({"id": content_hash(text), "text": text}) for text in pages]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / "provenance.json").write_text(json.dumps({"content_license": "CC0"}))
    folder = root / "benchmarks" / "quiz"
    folder.mkdir(parents=True)
    items = [
        {"id": str(i), "context": page_text("code", 5000 + i, 20), "choices": [" yes"], "gold": 0}
        for i in range(30)
    ]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)) + "\n")


def planted_scores(models: int = 40, *, pool: str = "", seed: int = 0):
    """Return a score table in which only the loss on code predicts the error on "quiz"."""
    generator = np.random.default_rng(seed)
    losses = 1 + 0.3 * generator.standard_normal((models, len(WORDS)))
    errors = np.exp(losses[:, 0] + 0.1 * generator.standard_normal(models))
    rows = []
    for k in range(models):
        common = {"model": f"m{k}", "family": f"f{k}", "pool": pool}
        rows += [
            common | {"kind": "domain", "name": name, "measure": "bits_per_byte",
                      "value": losses[k, j]}
            for j, name in enumerate(WORDS)
        ]  # fmt: skip
        rows.append(
            common | {"kind": "benchmark", "name": "quiz", "measure": "perplexity",
                      "value": 1 + errors[k], "pool": ""}
        )  # fmt: skip
    return scores.from_rows(rows)
