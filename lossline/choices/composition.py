"""What pool and selections consist of: domains, languages, lengths of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lossline.choices.options import ANY, COMPOSITION_COLUMNS, POOL, Choice
from lossline.corpora.pools import Page
from lossline.pages.languages import detector_is_installed, languages
from lossline.pages.make_up import MakeUp, make_up

# Pages whose language is detected, of the pool and of each selection: those with the smallest ids,
# a random sample. A share of 10% then has a standard error of 1%.
_SAMPLE = 1000


def composition(pages: Sequence[Page], choices: Sequence[Choice]) -> pd.DataFrame:
    """Return what the pool and the selections consist of, with ``COMPOSITION_COLUMNS``.

    One row per target, method, part ("domain", "language", "length") and level. Languages are those
    of a sample of pages; without the detector (extra [selection]) there are no such rows.

    Args:
        pages: the pages of the pool that were ranked.
        choices: the selections.
    """
    parts: list[pd.DataFrame] = []
    for number, choice in enumerate(choices):
        found = make_up(choice.cut)
        sides = [("selected", choice.target or ANY, choice.method)]
        if number == 0:
            sides.insert(0, ("pool", POOL, POOL))
        for side, target, method in sides:
            frames = list(_rows(found, side))
            if detector_is_installed():
                own = range(len(pages)) if side == "pool" else choice.cut.order
                frames.append(_languages([pages[i] for i in own]))
            parts += [frame.assign(target=target, method=method) for frame in frames]
    joined = pd.concat(parts) if parts else pd.DataFrame()
    return joined.reindex(columns=list(COMPOSITION_COLUMNS)).reset_index(drop=True)


def _rows(found: MakeUp, side: str) -> Iterator[pd.DataFrame]:
    names = {f"{side}_{name}": name for name in ("pages", "bytes", "share")}
    yield (
        found.domains[["domain", *names]]
        .rename(columns={"domain": "level", **names})
        .assign(part="domain")
    )
    yield pd.DataFrame(
        {
            "part": "length",
            "level": [f"{q:.0%} of pages below" for q in found.lengths["quantile"]],
            "bytes": found.lengths[f"{side}_bytes"],
        }
    )


def _languages(pages: Sequence[Page]) -> pd.DataFrame:
    sample = sorted(pages, key=lambda page: (page.id, page.domain))[:_SAMPLE]
    spoken = languages([page.text for page in sample])
    sizes: Counter[str] = Counter()
    for page, language in zip(sample, spoken, strict=True):
        sizes[language] += len(page.text.encode())
    counts, total = Counter(spoken), max(sum(sizes.values()), 1)
    order = [language for language, _ in sizes.most_common()]
    return pd.DataFrame(
        {
            "part": "language",
            "level": order,
            "pages": [counts[language] for language in order],
            "bytes": [sizes[language] for language in order],
            "share": np.array([sizes[language] for language in order], float) / total,
        }
    )
