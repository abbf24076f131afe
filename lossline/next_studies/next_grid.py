"""A study of planned runs: that which made the loss table, continued, or one to fill in."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from lossline.cli.configuration import Verb
from lossline.design import Candidate
from lossline.next_studies.next_runs_text import StudyText, study_to_fill_in


def grid_of(
    load_study: Callable[[], Verb], gin_file: str, table: pd.DataFrame, picks: Sequence[Candidate]
) -> StudyText:
    """Return a study of the picks as gin text.

    Args:
        load_study: loads the verb ``study``.
        gin_file: gin file of the study that made the table; "": none is known.
        table: the loss table.
        picks: the planned runs.

    Raises:
        UserError: the file is no study, or it has no run of the table.
    """
    if not picks:
        return StudyText(text="")
    if not gin_file:
        return study_to_fill_in(picks)
    from lossline.next_studies.continued import continued_study  # imports training

    return continued_study(load_study(), gin_file, table, picks)
