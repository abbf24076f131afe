"""Losses of a sample of tokens over the checkpoints of runs, and what is found in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

Array = np.ndarray


@dataclass(frozen=True, kw_only=True)
class TokenSample:
    """The N tokens that are followed, in the order of the store.

    Attributes:
        positions: place of each token in the store's flat array, int64 [N].
        documents: its document, int64 [N]; an eos belongs to the document that it ends.
        windows: its window, int64 [N].
        token_ids: int32 [N].
        pieces: bytes of each id of the vocabulary; None if no vocabulary is at hand.
        store: the store, in words.
        shown: windows to show as text, in the order in which they were drawn.
    """

    positions: Array
    documents: Array
    windows: Array
    token_ids: Array
    pieces: Sequence[bytes] | None
    store: str
    shown: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunCurves:
    """Losses of the sample under the checkpoints of one run.

    Attributes:
        run: name of the run.
        steps: its checkpoints, ascending.
        tokens: training tokens seen until each of them, as in a loss table.
        nats: float32 [checkpoints, N].
    """

    run: str
    steps: tuple[int, ...]
    tokens: tuple[int, ...]
    nats: Array


@dataclass(frozen=True, kw_only=True)
class TokenDynamics:
    """Classes of the tokens of every run, and tables of them.

    Columns ``run`` and ``rule`` (a ``Rule``) name the part of a row; ``low`` and ``high`` are the
    ends of its interval.

    Attributes:
        sample: the tokens.
        tokens: one row per run and token: window, document, position, token_id, text, slope (nats
            per checkpoint), change (nats), error (its standard error), threshold_noise,
            class_fixed, class_noise, nats_first, nats_last, mean_excess, selection_frequency (both
            empty without a reference).
        classes: one row per run, rule and class: share, low, high, tokens.
        curves: one row per run, rule, class (and "all") and checkpoint: step, tokens, nats,
            low, high.
        excess: one row per run, rule and class (and "all"): excess (mean over tokens and
            checkpoints), low, high, first, last, selection_frequency. Empty without a reference.
        agreement: one row per rule and pair of runs, and per run for the two rules: agreed, kappa
            and their intervals.
        runs: one row per run: checkpoints, first_step, last_step, mean_last (nats), lag
            (correlation of neighboring residuals), noise_median (median threshold of the noise
            rule).
        reference: run and step that excess is measured against; "" for none.
        notes: sentences on what to know about the results.
    """

    sample: TokenSample
    tokens: pd.DataFrame
    classes: pd.DataFrame
    curves: pd.DataFrame
    excess: pd.DataFrame
    agreement: pd.DataFrame
    runs: pd.DataFrame
    reference: str = ""
    notes: tuple[str, ...] = field(default=())
