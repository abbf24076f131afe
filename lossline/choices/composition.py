"""What pool and selections consist of: domains, languages, lengths of pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from lossline.choices.options import ANY, COMPOSITION_COLUMNS, POOL, Choice
from lossline.pages.cut import Cut
from lossline.pages.languages import detector_is_installed, languages
from lossline.pages.make_up import MakeUp, make_up_of
from lossline.pages.page_set import PageSet

# Pages whose language is detected, of the pool and of each selection: those with the smallest ids,
# a random sample. A share of 10% then has a standard error of 1%.
_SAMPLE = 1000


def composition(pages: PageSet | None, choices: Sequence[Choice]) -> pd.DataFrame:
    """Return what the pool and the selections consist of, with ``COMPOSITION_COLUMNS``.

    One row per target, method, part ("domain", "language", "length") and level. Languages are those
    of a sample of pages; without the detector (extra [selection]) there are no such rows.

    Args:
        pages: the pages of the pool that were ranked.
        choices: the selections.
    """
    parts: list[pd.DataFrame] = []
    for number, choice in enumerate(choices):
        assert pages is not None, "selections without pages"
        found = _make_up(pages, choice.cut)
        sides = [("selected", choice.target or ANY, choice.method)]
        if number == 0:
            sides.insert(0, ("pool", POOL, POOL))
        for side, target, method in sides:
            frames = list(_rows(found, side))
            if detector_is_installed():
                own = np.arange(len(pages)) if side == "pool" else choice.cut.order
                frames.append(_languages(pages, own))
            parts += [frame.assign(target=target, method=method) for frame in frames]
    joined = pd.concat(parts) if parts else pd.DataFrame()
    return joined.reindex(columns=list(COMPOSITION_COLUMNS)).reset_index(drop=True)


def _make_up(pages: PageSet, cut: Cut) -> MakeUp:
    own, tokens = np.zeros(len(pages), bool), np.zeros(len(pages), np.int64)
    own[cut.order] = True
    tokens[own] = cut.pages.loc[cut.pages["included"], "tokens"].to_numpy(np.int64)
    return make_up_of(pages.labels(), pages.sizes, own, tokens)


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


def _languages(pages: PageSet, own: np.ndarray) -> pd.DataFrame:
    sample = own[np.argsort(pages.places[own])][:_SAMPLE]
    spoken = languages(list(pages.texts(sample.tolist())))
    sizes: Counter[str] = Counter()
    for size, language in zip(pages.sizes[sample].tolist(), spoken, strict=True):
        sizes[language] += size
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
