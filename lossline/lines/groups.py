"""Groups of runs that share facts. One line belongs to one group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_name
from lossline.tables.schema import COLUMN_NAMES, FACTS, of_checkpoint

# Facts that group lines in arXiv 2502.12120; no other fact should move a line.
GROUP_BY: tuple[str, ...] = ("architecture", "pretraining_data", "tokenizer")

_NO_FACTS = frozenset(COLUMN_NAMES) - frozenset(FACTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of the runs that share facts.

    Attributes:
        facts: the shared facts by column; None where not recorded.
        table: rows of the loss table.
    """

    facts: Mapping[str, str | float | None]
    table: pd.DataFrame

    @property
    def name(self) -> str:
        """The facts in words, e.g. ``llama, wiki, bpe-4096``."""
        return ", ".join(str(v) for v in self.facts.values() if v is not None) or "all runs"


def split(table: pd.DataFrame, group_by: Sequence[str] = GROUP_BY) -> list[Group]:
    """Return one group per combination of facts in the table, sorted by the facts' text.

    Raises:
        UserError: ``group_by`` names a column that is missing or is not a fact of a run.
    """
    no_facts = _NO_FACTS.union(of_checkpoint(map(str, table.columns)))
    for name in group_by:
        if name not in table.columns or name in no_facts:
            known = [str(column) for column in table.columns if column not in no_facts]
            why = "not a fact of a run" if name in no_facts else "the table has no such column"
            raise UserError(
                f"cannot group by {name!r}: {why}{nearest_name(name, known)}; choose from "
                f"{', '.join(known)}."
            )
    if not group_by:
        return [Group(facts={}, table=table)]
    number = table.groupby(list(group_by), sort=False, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(order) else []
    # As objects, or a row of whole numbers and fractions would become fractions.
    firsts = table[list(group_by)].iloc[[rows[0] for rows in members]].astype(object)
    found = {
        tuple(map(_plain, first)): rows
        for first, rows in zip(firsts.itertuples(index=False), members, strict=True)
    }
    return [
        Group(facts=dict(zip(group_by, key, strict=True)), table=table.iloc[found[key]])
        for key in sorted(found, key=lambda k: tuple(map(str, k)))
    ]


def _plain(value: Any) -> Any:
    """Return a fact as a Python value; None where it is not recorded."""
    if pd.isna(value):
        return None
    return value.item() if isinstance(value, np.generic) else value
