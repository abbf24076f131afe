"""Describe a selection beside the pool that it was cut from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lossline.pages.cut import Cut

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class MakeUp:
    """What a pool and a selection consist of.

    Attributes:
        domains: one row per domain: domain, pool_pages, pool_bytes, pool_share (of the bytes),
            selected_pages, selected_bytes, selected_share, selected_tokens.
        languages: the same by language, most bytes of the pool first; None if it is not known.
        lengths: one row per quantile: quantile, pool_bytes, selected_bytes (bytes per page).
    """

    domains: pd.DataFrame
    languages: pd.DataFrame | None
    lengths: pd.DataFrame


def make_up(cut: Cut, *, languages: Sequence[str] | None = None) -> MakeUp:
    """Describe the selection and the pool.

    Args:
        cut: the selection; its table has the pages of the pool.
        languages: language of each page of the pool.
    """
    pages = cut.pages
    tokens = pages["tokens"].fillna(0).to_numpy(np.int64)
    parts = pages["bytes"].to_numpy(), pages["included"].to_numpy(), tokens
    found = make_up_of(pages["domain"].to_numpy(), *parts)
    if languages is None:
        return found
    by_language = _by("language", np.asarray(languages, object), *parts).sort_values(
        ["pool_bytes", "language"], ascending=[False, True], ignore_index=True
    )
    return replace(found, languages=by_language)


def make_up_of(
    domains: np.ndarray, size: np.ndarray, own: np.ndarray, tokens: np.ndarray
) -> MakeUp:
    """Describe a selection without languages.

    Args:
        domains: object [pages of the pool]: domain of each.
        size: int64: bytes of each.
        own: bool: whether it is selected.
        tokens: int64: its tokens; 0 if it is not selected.
    """
    lengths = pd.DataFrame(
        {
            "quantile": QUANTILES,
            "pool_bytes": np.quantile(size, QUANTILES),
            "selected_bytes": np.quantile(size[own], QUANTILES),
        }
    )
    return MakeUp(_by("domain", domains, size, own, tokens), None, lengths)


def _by(
    name: str, labels: np.ndarray, size: np.ndarray, own: np.ndarray, tokens: np.ndarray
) -> pd.DataFrame:
    rows = pd.DataFrame(
        {
            name: labels,
            "pool_pages": 1,
            "pool_bytes": size,
            "pool_share": size / max(size.sum(), 1),
            "selected_pages": own.astype(int),
            "selected_bytes": size * own,
            "selected_share": size * own / max((size * own).sum(), 1),
            "selected_tokens": tokens,
        }
    )
    return rows.groupby(name, sort=True, as_index=False).sum()
