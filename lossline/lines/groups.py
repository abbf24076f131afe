"""Groups of runs that share facts. One line belongs to one group."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

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
