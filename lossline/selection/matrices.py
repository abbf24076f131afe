"""The matrix of models × domains and models × benchmarks that all estimators work on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from lossline.errors import UserError
from lossline.tables.frames import nearest_name
from lossline.tables.schema import Status
from lossline.tables.scores import Measure, ScoreKind, ScoreStatus

Array = np.ndarray

_NAMED = 5  # names in a message; more are counted


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreMatrix:
    """Losses of N models on D domains, and their scores on B benchmarks.

    Attributes:
        models: names (N,).
        families: family of each model (N,); models of one family are resampled together.
        domains: names (D,).
        benchmarks: names (B,).
        losses: (N, D), bits per byte, or another unit that all domains share; NaN where missing.
        errors: (N, B), higher is worse; NaN where missing.
        measures: unit of each benchmark (B,): error, perplexity, bits_per_byte or loss.

    Raises:
        UserError: shapes do not match, a name occurs twice, a value is infinite, or there are
            fewer than 2 models, no domain or no benchmark.
    """

    models: tuple[str, ...]
    families: tuple[str, ...]
    domains: tuple[str, ...]
    benchmarks: tuple[str, ...]
    losses: Array
    errors: Array
    measures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Set the default unit and check."""
        if not self.measures:
            units = (str(Measure.ERROR),) * len(self.benchmarks)
            object.__setattr__(self, "measures", units)
        counts = (len(self.models), len(self.domains), len(self.benchmarks))
        for words, array, width in (
            ("losses: domains", self.losses, counts[1]),
            ("errors: benchmarks", self.errors, counts[2]),
        ):
            if array.shape != (counts[0], width):
                raise UserError(
                    f"score matrix: {words} have shape {array.shape}, but the names need "
                    f"{(counts[0], width)}. Give one row per model, one column per name."
                )
            if np.isinf(array).any():
                row, column = np.argwhere(np.isinf(array))[0]
                raise UserError(
                    f"score matrix: {words} are infinite for model {self.models[row]!r}, column "
                    f"{column + 1}. Remove the value, or mark it as failed."
                )
        if len(self.families) != counts[0] or len(self.measures) != counts[2]:
            raise UserError(
                "score matrix: give one family per model, and one measure per benchmark."
            )
        for words, names in (
            ("model", self.models),
            ("domain", self.domains),
            ("benchmark", self.benchmarks),
        ):
            twice = [name for name, number in pd.Series(names).value_counts().items() if number > 1]
            if twice:
                raise UserError(
                    f"score matrix: {words} {twice[0]!r} occurs twice. Keep one of them."
                )
        if counts[0] < 2 or not counts[1] or not counts[2]:
            raise UserError(
                f"score matrix: {counts[0]} models, {counts[1]} domains, {counts[2]} benchmarks. "
                "Score at least 2 models on 1 domain and 1 benchmark."
            )

    def notes(self) -> tuple[str, ...]:
        """Return what is missing or cannot be ranked, one sentence each."""
        return tuple(self._notes())

    def averaged(self, name: str, benchmarks: Sequence[str]) -> ScoreMatrix:
        """Return the matrix with one benchmark more: the mean of others of one unit.

        A model that lacks one of them lacks the mean.

        Raises:
            UserError: a name is unknown, or the units differ.
        """
        columns = [self.benchmark(other) for other in benchmarks]
        units = {self.measures[column]: self.benchmarks[column] for column in columns}
        if len(units) != 1:
            mixed = " and ".join(f"{other!r} ({unit})" for unit, other in units.items())
            raise UserError(
                f"benchmark {name!r}: {mixed or 'no benchmarks'} cannot be averaged. Average "
                "benchmarks of one measure."
            )
        mean = self.errors[:, columns].mean(axis=1, keepdims=True)
        return dataclasses.replace(
            self,
            benchmarks=(*self.benchmarks, name),
            errors=np.hstack([self.errors, mean]),
            measures=(*self.measures, *units),
        )

    def in_order_of_names(self) -> ScoreMatrix:
        """Return the matrix with models and domains in the order of their names.

        Ties of coefficients and the draw of held-out models then do not depend on the order of the
        rows of a table.
        """
        models = sorted(range(len(self.models)), key=self.models.__getitem__)
        domains = sorted(range(len(self.domains)), key=self.domains.__getitem__)
        return dataclasses.replace(
            self,
            models=tuple(self.models[k] for k in models),
            families=tuple(self.families[k] for k in models),
            domains=tuple(self.domains[j] for j in domains),
            losses=self.losses[np.ix_(models, domains)],
            errors=self.errors[models],
        )

    def benchmark(self, name: str) -> int:
        """Return the column of a benchmark.

        Raises:
            UserError: unknown name.
        """
        if name not in self.benchmarks:
            raise UserError(
                f"unknown benchmark {name!r}{nearest_name(name, self.benchmarks)}; choose from "
                f"{named(self.benchmarks, most=20)}."
            )
        return self.benchmarks.index(name)

    def _notes(self) -> Iterator[str]:
        for column, name in enumerate(self.benchmarks):
            known = ~np.isnan(self.errors[:, column])
            if not known.all():
                without = [m for m, there in zip(self.models, known, strict=True) if not there]
                yield (
                    f"Benchmark {name}: {len(without)} of {len(self.models)} models have no score "
                    f"and are left out of it: {named(without)}."
                )
            if (reason := no_rank(self.errors[:, [column]])[0]) and known.any():
                yield f"Benchmark {name}: {reason}; no domain is ranked by it."
        absent = np.isnan(self.losses)
        unscored = absent.all(axis=0)
        if cells := int(absent[:, ~unscored].sum()):
            domains = absent[:, ~unscored].any(axis=0).sum()
            models = [m for m, some in zip(self.models, absent.any(axis=1), strict=True) if some]
            yield (
                f"{cells} losses are missing, in {domains} of {len(self.domains)} domains: those "
                f"models are left out of those domains: {named(models)}."
            )
        reasons: dict[str, list[str]] = {}
        for domain, reason in zip(self.domains, no_rank(self.losses), strict=True):
            if reason:
                reasons.setdefault(reason, []).append(domain)
        for reason, domains in reasons.items():
            yield f"{len(domains)} domains are not ranked ({reason}): {named(domains)}."


def named(names: Sequence[str], most: int = _NAMED) -> str:
    """Return the first names, and the number of the others, as text."""
    shown = ", ".join(map(str, names[:most]))
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def no_rank(values: Array) -> list[str]:
    """Return why columns (N, C) give no rank; an empty text for those that do."""
    known = ~np.isnan(values)
    low = np.min(values, axis=0, where=known, initial=np.inf)
    high = np.max(values, axis=0, where=known, initial=-np.inf)
    count = known.sum(axis=0)
    return [
        "no model was scored" if n == 0 else "one model only" if n == 1 else
        "all models have the same score" if same else ""
        for n, same in zip(count, low == high, strict=True)
    ]  # fmt: skip


def score_matrix(
    scores: pd.DataFrame,
    losses: pd.DataFrame | None = None,
    *,
    benchmarks: Sequence[str] = (),
) -> ScoreMatrix:
    """Return the matrix of a score table, at the last step of each model on domains.

    Failed rows are missing cells. An accuracy becomes an error, 1 - accuracy; perplexities stay
    what they are.

    Args:
        scores: score table (``lossline.tables.scores``).
        losses: loss table; its evaluation sets become benchmarks in bits per byte, measured at the
            step that was scored.
        benchmarks: names of the benchmarks to keep, in order; all if empty.

    Raises:
        UserError: no domain or no benchmark was scored, a name is unknown, domains have different
            units, or a benchmark is in both tables.
    """
    scores = _last_steps(scores)
    is_domain = scores["kind"].astype(str) == str(ScoreKind.DOMAIN)
    domains, ours = scores[is_domain], scores[~is_domain]
    if domains.empty:
        raise UserError("score table: no row of kind 'domain'. Run lossline.score on a pool first.")
    _one_unit(domains)
    models = tuple(dict.fromkeys(domains["model"].astype(str)))
    families = domains.drop_duplicates("model").set_index("model")["family"]
    found = [*_benchmarks_of_scores(ours), *_benchmarks_of_losses(losses, domains)]
    chosen = _chosen({one.name: one for one in found}, found, benchmarks)
    names = tuple(dict.fromkeys(domains["name"].astype(str)))
    return ScoreMatrix(
        models=models,
        families=tuple(
            str(model if pd.isna(families[model]) else families[model]) for model in models
        ),
        domains=names,
        benchmarks=tuple(one.name for one in chosen),
        losses=_wide(domains, models, names),
        errors=np.column_stack([[one.values.get(m, np.nan) for m in models] for one in chosen]),
        measures=tuple(one.measure for one in chosen),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Benchmark:
    """Scores of one benchmark by model; higher is worse."""

    name: str
    measure: str
    values: Mapping[str, float]


def _last_steps(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of each model's last step on domains; rows without a step are kept.

    A benchmark measured at another step belongs to another checkpoint. Models whose domains have no
    step keep their last step on benchmarks.
    """
    step = scores["step"].astype("Float64")
    on_domains = step.where(scores["kind"].astype(str) == str(ScoreKind.DOMAIN))
    last = on_domains.groupby(scores["model"]).transform("max")
    last = last.fillna(step.groupby(scores["model"]).transform("max"))
    return scores[(step.isna() | (step == last)).fillna(False).to_numpy(bool)]


def _one_unit(domains: pd.DataFrame) -> None:
    first = domains.drop_duplicates("measure")
    if len(first) > 1:
        (_, one), (_, other) = list(first.iterrows())[:2]
        raise UserError(
            f"score table: domain {one['name']!r} is in {one['measure']}, domain {other['name']!r} "
            f"in {other['measure']}. Score all domains in one unit."
        )


def _measured(rows: pd.DataFrame) -> pd.DataFrame:
    value = rows["value"].astype("Float64")
    return rows[
        ((rows["status"].astype(str) == str(ScoreStatus.OK)) & value.notna()).to_numpy(bool)
    ]


def _wide(domains: pd.DataFrame, models: Sequence[str], names: Sequence[str]) -> Array:
    """Return values (N, D); NaN where a row is missing or failed."""
    rows = _measured(domains)
    values = np.full((len(models), len(names)), np.nan)
    at = (
        pd.Index(models).get_indexer(rows["model"].astype(str)),
        pd.Index(names).get_indexer(rows["name"].astype(str)),
    )
    values[at] = rows["value"].to_numpy(float)
    return values


def _benchmarks_of_scores(rows: pd.DataFrame) -> Iterator[_Benchmark]:
    for name, part in rows.groupby("name", sort=False, observed=True):
        measures = part["measure"].astype(str).unique()
        if len(measures) > 1:
            raise UserError(
                f"score table: benchmark {name!r} has the measures {', '.join(measures)}. Keep one."
            )
        kept = _measured(part)
        values = kept["value"].to_numpy(float)
        accuracy = measures[0] == str(Measure.ACCURACY)
        yield _Benchmark(
            name=str(name),
            measure=str(Measure.ERROR) if accuracy else measures[0],
            values=dict(
                zip(kept["model"].astype(str), 1 - values if accuracy else values, strict=True)
            ),
        )


def _benchmarks_of_losses(
    losses: pd.DataFrame | None, domains: pd.DataFrame
) -> Iterator[_Benchmark]:
    """Yield the evaluation sets of a loss table at the steps that were scored."""
    if losses is None:
        return
    scored = domains.drop_duplicates("model").set_index("model")["step"].astype("Float64")
    step = losses["step"].astype("Float64")
    last = step.groupby(losses["run_id"]).transform("max")
    wanted = losses["run_id"].map(scored).astype("Float64").fillna(last)
    usable = (
        losses["run_id"].isin(scored.index)
        & (step == wanted)
        & (losses["status"].astype(str) == str(Status.OK))
        & losses["bits_per_byte"].notna()
    )
    # A set that no model could be measured on is still a benchmark: it gets a note.
    for name, part in losses.groupby("eval_set", sort=False, observed=True):
        kept = part[usable.loc[part.index].fillna(False).to_numpy(bool)]
        values = kept["bits_per_byte"].astype(float)
        yield _Benchmark(
            name=str(name),
            measure=str(Measure.BITS_PER_BYTE),
            values=dict(zip(kept["run_id"].astype(str), values, strict=True)),
        )


def _chosen(
    by_name: Mapping[str, _Benchmark], found: Sequence[_Benchmark], wanted: Sequence[str]
) -> list[_Benchmark]:
    if len(by_name) < len(found):
        names = [one.name for one in found]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"benchmark {twice!r} is in the score table and in the loss table. Rename one of them."
        )
    if not found:
        raise UserError(
            "no benchmark: the score table has no row of kind 'benchmark'. Give a loss table whose "
            "evaluation sets are the benchmarks."
        )
    for name in wanted:
        if name not in by_name:
            raise UserError(
                f"unknown benchmark {name!r}{nearest_name(name, by_name)}; choose from "
                f"{named(list(by_name), most=20)}."
            )
    return [by_name[name] for name in wanted or by_name]
