"""Select the user's own factors (``factor.<name>``) that must be tested.

A grid names the factor that each axis varies. Four cases:

- It varies one recorded fact ("pretraining data"), or several that can change alone ("model":
  architecture and size): these facts are tested under their own names instead.
- It varies seeds: not tested.
- It varies recorded facts that change only together: tested as one factor.
- It varies no recorded fact: tested like any other factor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from lossline.matching.changes import Changes
from lossline.matching.run_facts import NOT_RECORDED, RunFacts
from lossline.options.roles import SIZE, Role, fact_of

Reduce = Callable[[frozenset[str]], frozenset[str]]


def own_factors(
    facts: RunFacts, reduce: Reduce, changes: frozenset[frozenset[str]]
) -> dict[str, frozenset[str]]:
    """Return the user's own factors to test, each with the facts that change only together with it.

    The set of facts is empty if no recorded fact distinguishes the levels of the factor.

    Args:
        facts: facts of the runs.
        reduce: function that removes from a change the facts that change along with another one.
        changes: every such set of facts in which two runs differ.
    """
    found: dict[str, frozenset[str]] = {}
    for name in facts.own.columns:
        if _renames_another_role(facts, name):
            continue
        smallest = list(_smallest_changes(facts, name, reduce))
        parts = frozenset(part for change in smallest for part in change) - set(facts.own.columns)
        if not smallest:
            continue
        if parts and all(_is_tested(part) and frozenset({part}) in changes for part in parts):
            continue  # tested one by one
        found[str(name)] = parts
    return found


def _is_tested(column: str) -> bool:
    """Whether a recorded fact is a factor by itself; the shape of a model is not."""
    fact = fact_of(column)
    return column == SIZE or (fact is not None and fact.role is Role.FACTOR)


def _smallest_changes(facts: RunFacts, name: str, reduce: Reduce) -> Iterator[frozenset[str]]:
    """For each pair of levels of an own factor, what else their two most similar runs differ in."""
    rest = [other for other in facts.own.columns if other != name]
    runs = Changes(pd.concat([facts.factors, facts.own[rest]], axis=1))
    level = facts.own[name].to_numpy(str)
    recorded = sorted(set(level) - {NOT_RECORDED})
    for first, second in itertools.combinations(recorded, 2):
        others = np.flatnonzero(level == second)
        pairs = ((int(row), others) for row in np.flatnonzero(level == first))
        found = [(reduce(change), len(change)) for change in runs.between(pairs)]
        yield min(found, key=lambda item: (len(item[0]), item[1], sorted(item[0])))[0]


def _renames_another_role(facts: RunFacts, name: str) -> bool:
    """Whether the levels only rename those of a seed, a length or an implementation."""
    own = facts.own[name]
    known = own != NOT_RECORDED
    return any(
        column[known].nunique() == own[known].nunique()
        and bool((column[known].groupby(own[known]).nunique() == 1).all())
        for _, column in facts.others.items()
    )
