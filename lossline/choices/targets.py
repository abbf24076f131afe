"""Targets: what pages are selected for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from lossline.corpora.benchmarks import benchmark_folder
from lossline.corpora.gathering import text_folder
from lossline.corpora.items import Item, gathered_items
from lossline.corpora.sources import JsonLines, documents
from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Target:
    """Gin component: a target of the selection.

    Attributes:
        name: name of the target, and of its folder.
        benchmarks: evaluation sets of the loss tables, or benchmarks of the score tables, whose
            loss or error is to fall. Several, all of one measure, are averaged model by model.
        texts: text that shows what the target looks like, for DSIR and for classifiers with given
            positives: names of gathered benchmarks (question and correct answer) or of gathered
            corpora, or paths of files with JSON lines.
        skip: number of first questions or documents of each of ``texts`` to leave out, because
            models are measured on them.
        max_texts: maximum number of texts of each; 0 means no limit.
        domains: the target's own domains of the pool, for the oracle.
    """

    name: str
    benchmarks: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    skip: int = 0
    max_texts: int = 10_000
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.skip < 0 or self.max_texts < 0:
            raise UserError(
                f"target {self.name}: skip = {self.skip}, max_texts = {self.max_texts}: must not "
                "be negative."
            )

    def read_texts(self, root: Path) -> tuple[str, ...]:
        """Return the texts of the target.

        Args:
            root: data root, as in ``gather``.

        Raises:
            UserError: a name is not gathered, a file is missing or invalid, or nothing is left.
        """
        found: list[str] = []
        for name in self.texts:
            stop = self.skip + self.max_texts if self.max_texts else None
            found += islice(self._texts(root, name), self.skip, stop)
        if self.texts and not found:
            raise UserError(
                f"target {self.name}: no text is left after the first {self.skip}. Lower "
                "target.skip or give more target.texts."
            )
        return tuple(found)

    def items(self, root: Path) -> dict[str, list[Item]]:
        """Return the questions of those benchmarks of the target that are gathered."""
        return {
            name: list(gathered_items(benchmark_folder(root, name) / "items.jsonl"))
            for name in self.benchmarks
            if benchmark_folder(root, name).is_dir()
        }

    def _texts(self, root: Path, name: str) -> Iterator[str]:
        if benchmark_folder(root, name).is_dir():
            for item in gathered_items(benchmark_folder(root, name) / "items.jsonl"):
                yield item.context + item.choices[item.gold]
            return
        folder = text_folder(root, name)
        path = folder / "train.jsonl" if folder.is_dir() else Path(name)
        if not folder.is_dir() and not path.suffix:
            raise UserError(
                f"target {self.name}: {name!r} is neither a gathered benchmark nor a gathered "
                f"corpus below {root}. Gather it with python -m lossline.gather, or give a file."
            )
        yield from documents(JsonLines(name=name, train=(str(path),)), "train")
