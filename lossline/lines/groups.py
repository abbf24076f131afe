"""Groups of runs that share facts, the unit to which one line belongs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_name
from lossline.tables.schema import COLUMN_NAMES, FACTS, of_checkpoint

__all__ = ["GROUP_BY", "Group", "split"]

# What lines are grouped by in arXiv 2502.12120: all else should leave the line where it is.
GROUP_BY: tuple[str, ...] = ("architecture", "pretraining_data", "tokenizer")

_NO_FACTS = frozenset(COLUMN_NAMES) - frozenset(FACTS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of the runs that share `facts`; a fact that is not recorded is None."""

    facts: Mapping[str, str | float | None]
    table: pd.DataFrame

    @property
    def name(self) -> str:
        """In words, e.g. ``llama, wiki, bpe-4096``."""
        return ", ".join(str(v) for v in self.facts.values() if v is not None) or "all runs"


def split(table: pd.DataFrame, group_by: Sequence[str] = GROUP_BY) -> list[Group]:
    """One group per combination of facts that occurs, in the order of the facts' text."""
    no_facts = _NO_FACTS.union(of_checkpoint(map(str, table.columns)))
    for name in group_by:
        if name not in table.columns or name in no_facts:
            known = [str(column) for column in table.columns if column not in no_facts]
            why = "is no fact of a run" if name in no_facts else "the table has no such column"
            raise UserError(
                f"cannot group by {name!r}: {why}{nearest_name(name, known)}; choose of "
                f"{', '.join(known)}"
            )
    if not group_by:
        return [Group(facts={}, table=table)]
    keys = table[list(group_by)].astype(object)
    keys = keys.where(keys.notna(), None)
    labels = [tuple(row) for row in keys.itertuples(index=False)]
    members: dict[tuple, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    return [
        Group(facts=dict(zip(group_by, key, strict=True)), table=table.iloc[members[key]])
        for key in sorted(members, key=lambda k: tuple(map(str, k)))
    ]
