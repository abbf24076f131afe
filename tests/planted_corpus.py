"""A corpus of two packages with every kind of repeat, for tests of gathering."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.extraction import Document
from lossline.corpora.registries.packages import Package


def documents(path: Path) -> Iterator[Document]:
    """Extract the documents of a planted package."""
    for number, text in enumerate(json.loads(path.read_text())):
        yield Document(source=f"{path.name}#{number}", text=text)


def planted(folder: Path, *, near: bool, seed: int = 0) -> Corpus:
    """Make a corpus of two packages with copies, edited copies, short and invalid texts."""
    draw = random.Random(seed)
    words = [f"w{number}" for number in range(3000)]
    texts = [" ".join(draw.choices(words, k=draw.randint(5, 200))) + "\n" for _ in range(150)]
    texts += [text.replace(" ", "\n") for text in draw.sample(texts, 20)]
    texts += [f"{text} edited {draw.random()}" for text in draw.sample(texts, 30)]
    texts += ["short", "lone \ud800 half" * 9, *draw.sample(texts, 5)]
    draw.shuffle(texts)
    packages = {}
    for number, own in enumerate((texts[:120], texts[120:])):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(own))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        package = Package(name=f"p{number}", version="1", file=path.name, sha256=sha256, license="")
        packages[package] = documents
    return Corpus(
        name="planted",
        title="planted",
        packages=packages,
        content_license="",
        near_duplicates=near,
    )


def killed_once(path: Path, *, marker: str) -> Iterator[Document]:
    """Extract the documents, but the first process that does it dies on the way."""
    for number, document in enumerate(documents(path)):
        if number == 50:
            try:
                Path(marker).touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        yield document
