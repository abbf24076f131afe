"""Data of mixture laws: measured losses of models trained on mixtures, and what a law is.

    runs = MixtureRuns.from_table(table, domains=[("code", "loss"), ("arc_easy", "bits_per_byte")])
    fit = law.fit(runs)
    fit.predict(shares_of({"wiki": 0.7, "code": 0.3}, runs.components), params=1e9, tokens=2e10)

All laws of this room take these runs and give such fits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.run_order import run_numbers
from lossline.tables.continued import fresh
from lossline.tables.frames import nearest_name, nearest_names
from lossline.tables.pairing import one_set
from lossline.tables.schema import COMPONENT_TOKENS, SHARE, SetKind, Unit

Array = np.ndarray

# Published shares are rounded to three decimals: 17 of them sum to 0.996 - 1.004.
SHARE_ROUNDING = 0.01
_CHECKPOINT = ["run_id", "step"]
Domain = tuple[str, str]  # evaluation set, unit (``loss`` or ``bits_per_byte``)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureRuns:
    """Measured losses of models trained on mixtures: M checkpoints, K components, J domains.

    Attributes:
        components: names of the components (K). Shares are matched by name, never by position.
        domains: names of what was measured (J): a domain's loss, bits per byte of a task's answers.
        shares: share of each component in the training text (M, K). Exact zeros are allowed. Rows
            are scaled to sum to 1 if they do so up to rounding (0.01).
        params: parameters N (M,).
        tokens: training tokens D (M,).
        flops: training FLOPs C (M,); NaN where unknown.
        losses: losses (M, J), nats per token or bits per byte; NaN where missing.
        runs: run of each checkpoint (M,), the unit of resampling.

    Raises:
        UserError: shapes disagree, a share is negative or not finite, shares do not sum to 1, or N
            or D is not positive.
    """

    components: tuple[str, ...]
    domains: tuple[str, ...]
    shares: Array
    params: Array
    tokens: Array
    flops: Array
    losses: Array
    runs: Array

    def __post_init__(self) -> None:
        shares = checked_shares(self.shares, self.components, "mixture runs")
        object.__setattr__(self, "shares", shares)
        object.__setattr__(self, "runs", np.asarray(self.runs).astype(str))
        count = len(shares)
        for name in ("params", "tokens", "flops", "losses"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), float))
        shapes = {
            "params": (count,),
            "tokens": (count,),
            "flops": (count,),
            "losses": (count, len(self.domains)),
            "runs": (count,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise UserError(
                    f"mixture runs: {name} has shape {getattr(self, name).shape}; shares and "
                    f"domains need {shape}. Give one row per checkpoint."
                )
        for name in ("params", "tokens"):
            if not (getattr(self, name) > 0).all():
                raise UserError(
                    f"mixture runs: {name} has an empty value or one that is not positive. Give "
                    f"{name} of every checkpoint."
                )

    def __len__(self) -> int:
        """Return the number of checkpoints M."""
        return len(self.shares)

    def __getitem__(self, rows: Any) -> MixtureRuns:
        """Return some of the checkpoints, by a mask or by positions (M')."""
        names = ("shares", "params", "tokens", "flops", "losses", "runs")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})

    def only(self, domains: Sequence[str]) -> MixtureRuns:
        """Return some of the domains, by name.

        Raises:
            UserError: a domain is unknown.
        """
        for name in domains:
            if name not in self.domains:
                raise unknown_name("domain", name, self.domains)
        picked = [self.domains.index(name) for name in domains]
        return dataclasses.replace(self, domains=tuple(domains), losses=self.losses[:, picked])

    @property
    def last_checkpoints(self) -> MixtureRuns:
        """The last checkpoint of each run.

        A schedule lowers the learning rate toward the end, so that an earlier checkpoint has a
        higher loss than a run that ends there.
        """
        last = pd.Series(self.tokens).groupby(self.runs).transform("max").to_numpy()
        return self[self.tokens == last]

    @property
    def run_numbers(self) -> Array:
        """Number of each checkpoint's run (M,), which does not depend on the runs' names."""
        scale = (self.params, self.tokens)
        return run_numbers(self.runs, *scale, *self.shares.T, *self.losses.T)

    @property
    def flops_per_product(self) -> float:
        """Median of C / (N D), about 6; NaN if no compute is known."""
        ratio = self.flops / (self.params * self.tokens)
        return float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else np.nan

    @classmethod
    def from_table(
        cls,
        table: pd.DataFrame,
        *,
        domains: Iterable[Domain] | None = None,
        components: Sequence[str] | None = None,
        size: str = "params",
    ) -> MixtureRuns:
        """Return the checkpoints of a loss table whose runs were trained on mixtures.

        Shares come from ``share.<component>``; where they are empty, from
        ``component_tokens.<component>``. An empty cell beside a filled one is a share of 0: that
        run's mixture does not have the component. Runs without any share are left out, and runs
        that continued another run, because their tokens count only their own part.

        Args:
            table: a loss table.
            domains: (evaluation set, unit) of each domain; the unit is ``loss`` or
                ``bits_per_byte``. None: those of ``domains_of``.
            components: names and order of the components; None: all of the table, sorted.
            size: column of N, ``params`` or ``params_non_embedding``.

        Raises:
            UserError: no run has a mixture, a component or domain is unknown, a component has no
                run above 0, shares do not sum to 1, N or D is missing, or nothing was measured.
        """
        table = fresh(table)
        known = components_of(table)
        if not known:
            raise UserError(
                "the table has no mixtures: no column share.<component> or "
                "component_tokens.<component> has a value. Gather runs that were trained on a "
                "mixture."
            )
        names = tuple(known if components is None else components)
        for name in names:
            if name not in known:
                raise unknown_name("component", name, known)
        if left := [name for name in known if name not in names]:
            used = recorded_shares(table, left).sum(axis=1) > SHARE_ROUNDING
            if used.any():
                raise UserError(
                    f"components: {left[0]!r} is not among them, and run "
                    f"{table.loc[used, 'run_id'].iloc[0]!r} was trained on it. Name all components "
                    f"({', '.join(known)})."
                )
        chosen = list(domains_of(table) if domains is None else domains)
        points = _checkpoints(table, names, size)
        labels = _labels(chosen)
        losses = np.column_stack([_values(table, points, *domain) for domain in chosen])
        kept = (points["tokens"] > 0).to_numpy() & np.isfinite(losses).any(axis=1)
        if not kept.any():
            raise UserError(
                f"no run with a mixture has a loss on {', '.join(labels)}. Evaluate these runs, "
                "or choose other domains."
            )
        points = points[kept]
        found = cls(
            components=names,
            domains=tuple(labels),
            shares=points[[SHARE + name for name in names]].to_numpy(float),
            params=points[size].to_numpy(float),
            tokens=points["tokens"].to_numpy(float),
            flops=points["flops"].to_numpy(float),
            losses=losses[kept],
            runs=points["run_id"].to_numpy(),
        )
        found.check_components()
        return found

    def check_components(self) -> None:
        """Check that each component was trained on.

        Raises:
            UserError: a component has no run with a share above 0.
        """
        for name, share in zip(self.components, self.shares.T, strict=True):
            if not (share > 0).any():
                raise UserError(
                    f"component {name!r} has no run with a share above 0: its effect is unknown. "
                    "Leave it out, or train on it."
                )


class MixtureFit(Protocol):
    """A fitted law of all domains."""

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components (K)."""

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains (J)."""

    def predict(self, shares: Array, *, params: Any, tokens: Any) -> Array:
        """Return losses (T, J) at shares (T, K), N and D (T,); NaN where the law has none."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fit as JSON values."""


class MixtureLaw(Protocol):
    """A law from a mixture and scale to the losses of the domains."""

    name: str
    equation: str
    source: str

    def fit(self, runs: MixtureRuns, *, weights: Array | None = None) -> MixtureFit:
        """Fit all domains; ``weights`` (M,) count the checkpoints."""


def unknown_name(what: str, name: str, known: Sequence[str]) -> UserError:
    """Return the error for a component or domain that does not exist."""
    return UserError(
        f"{what} {name!r} is unknown{nearest_name(name, known)}; choose from {', '.join(known)}"
    )


def components_of(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of the components that have a share or tokens in a loss table, sorted."""
    names = {
        str(column).removeprefix(prefix)
        for prefix in (SHARE, COMPONENT_TOKENS)
        for column in table.columns
        if str(column).startswith(prefix) and table[column].notna().any()
    }
    return tuple(sorted(names))


def checked_shares(shares: Any, components: Sequence[str], where: str) -> Array:
    """Return shares (M, K) that sum to exactly 1; one mixture may be given as (K,).

    Raises:
        UserError: not K shares, a share is negative or not finite, or a sum is not 1.
    """
    array = np.atleast_2d(np.asarray(shares, float))
    if array.ndim != 2 or array.shape[1] != len(components):
        raise UserError(
            f"{where}: shares have shape {np.shape(shares)}. Give one share for each of the "
            f"{len(components)} components ({', '.join(components)})."
        )
    bad = ~np.isfinite(array) | (array < 0)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise UserError(
            f"{where}: the share of {components[column]!r} is {array[row, column]:g}"
            f"{_in_row(row, array, ' in')}. Give a number from 0 to 1."
        )
    total = array.sum(axis=1)
    off = np.abs(total - 1) > SHARE_ROUNDING
    if off.any():
        row = int(np.flatnonzero(off)[0])
        raise UserError(
            f"{where}: the shares{_in_row(row, array, ' of')} sum to {total[row]:.4g}, not to 1. "
            "Give the shares of all components, as fractions."
        )
    return array / total[:, None]


def _in_row(row: int, mixtures: Array, word: str) -> str:
    """Return the row of a message; "" if there is but one mixture."""
    return f"{word} row {row + 1}" if len(mixtures) > 1 else ""


def shares_of(
    mixture: Mapping[str, float], components: Sequence[str], where: str = "mixture"
) -> Array:
    """Return the shares (1, K) of a mixture given by name; components not named get 0.

    Args:
        mixture: share of each component.
        components: the K names.
        where: what has the mixture, for messages.

    Raises:
        UserError: a name is unknown, or the shares do not sum to 1.
    """
    for name in mixture:
        if name not in components:
            raise unknown_name(f"{where}: component", name, components)
    return checked_shares([mixture.get(name, 0.0) for name in components], components, where)


def domains_of(
    table: pd.DataFrame, *, validation_sets: Sequence[str] = (), tasks: Sequence[str] = ()
) -> list[Domain]:
    """Return the domains of a loss table: validation sets, then tasks, by name.

    A validation set is measured in nats per token, a task's gold answers in bits per byte; each in
    the other unit where the table has only that. A task with accuracies alone is no domain.

    Args:
        table: a loss table.
        validation_sets: the sets to use; empty: all.
        tasks: the tasks to use; empty: all.

    Raises:
        UserError: the table lacks such a set, or has no loss at all.
    """
    chosen = []
    for option, kind, units, wanted in (
        ("validation_sets", SetKind.VALIDATION, (Unit.NATS, Unit.BITS), validation_sets),
        ("tasks", SetKind.TASK, (Unit.BITS, Unit.NATS), tasks),
    ):
        rows = table[table["kind"] == str(kind)]
        known = sorted(rows["eval_set"].unique())
        if missing := sorted(set(wanted) - set(known)):
            raise UserError(
                f"predict.{option}: the table has no {kind} set {missing[0]!r}. Near names: "
                f"{nearest_names(missing[0], known) or 'none'}."
            )
        for name in known:
            losses = rows[rows["eval_set"] == name]
            unit = next((u for u in units if losses[str(u)].notna().any()), None)
            if unit and name in (wanted or known):
                chosen.append((str(name), str(unit)))
    if not chosen:
        raise UserError(
            "the table has no loss of a validation set and of no task's gold answers. Evaluate the "
            "runs first."
        )
    return chosen


def _checkpoints(table: pd.DataFrame, names: Sequence[str], size: str) -> pd.DataFrame:
    """Return run, step, tokens, flops, N and shares of the checkpoints that have a mixture."""
    shares = recorded_shares(table, names).add_prefix(SHARE)
    facts = [*_CHECKPOINT, "tokens", "flops", size]
    points = table[facts].join(shares).dropna(subset=list(shares.columns))
    return points.drop_duplicates(_CHECKPOINT).reset_index(drop=True)


def _values(table: pd.DataFrame, points: pd.DataFrame, eval_set: str, unit: str) -> Array:
    """Return the losses of one domain at the checkpoints (M,), NaN where missing."""
    measured = one_set(table, eval_set, unit)
    if measured.empty:
        sets = tuple(sorted(set(table["eval_set"].dropna())))
        raise UserError(
            f"domain {eval_set!r} has no {unit} in the table{nearest_name(eval_set, sets)}; "
            f"choose (set, unit) of {', '.join(sets)}"
        )
    joined = points[_CHECKPOINT].merge(measured[[*_CHECKPOINT, "value"]], how="left")
    return joined["value"].to_numpy(float)


def _labels(domains: Sequence[Domain]) -> list[str]:
    """Return a name for each domain: its set, with the unit where a set is there twice."""
    sets = [eval_set for eval_set, _ in domains]
    return [name if sets.count(name) == 1 else f"{name} ({unit})" for name, unit in domains]


def recorded_shares(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the shares of each row of a loss table (columns = components), NaN if it has none.

    They come from ``share.<component>``, else from ``component_tokens.<component>``.
    """

    def columns(prefix: str) -> pd.DataFrame:
        found = {n: table[prefix + n] for n in names if prefix + n in table}
        frame = pd.DataFrame(found, index=table.index).reindex(columns=list(names)).astype(float)
        some = frame.notna().any(axis=1)
        return frame.where(~some, frame.fillna(0.0), axis=0)

    tokens = columns(COMPONENT_TOKENS)
    total = tokens.sum(axis=1).where(lambda total: total > 0)
    shares = columns(SHARE)
    return shares.where(shares.notna().any(axis=1), tokens.div(total, axis=0), axis=0)
