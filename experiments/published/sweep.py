"""Sections of Brandfonbrener et al. (arXiv 2411.12925): laws, lines, hold-out, translation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import heldout
import numpy as np
import pandas as pd
from records import Comparison, Section, named, spread

from lossline.errors import UserError
from lossline.laws.compute_laws import Chinchilla, Kaplan
from lossline.laws.problems import FitProblem
from lossline.laws.results import FitResult
from lossline.laws.solver import fit_many
from lossline.lines.fitting import Line, LineOptions, fit_specimen, r_squared
from lossline.lines.published_line import PublishedLine, published_line
from lossline.lines.specimens import LineKind, Specimen, between_groups, within_groups
from lossline.lines.translation import fit_law, near_optimal, score_translations
from lossline.tables.pairing import one_set
from lossline.tables.schema import OWN_SET
from lossline.tables.sweeps import import_sweep

VARY = ("pretraining_data",)
LARGEST = 4.84e19  # FLOPs, the sweep's own largest budget
SAME_BUDGET = 1.01  # budgets are printed with few digits
EDU = "fineweb-edu-100b"
# The 20-layer models, which the published translation leaves out.
TWENTY_LAYERS = 475_239_680
FAST = LineOptions(resamples=0)

# METHODS: E of the Kaplan-style laws of the own validation loss.
KAPLAN_E = {
    "smollm-corpus": 1.53, EDU: 1.97, "slimpajama-chunk1": 1.97, "fineweb-100b": 2.17,
    "proof-pile-2": 1.32, "starcoder": 0.85,
}  # fmt: skip
FROM_EDU = {
    "fineweb-100b": (1.00, 1.01), "proof-pile-2": (1.07, 0.60), "slimpajama-chunk1": (0.97, 1.05),
    "smollm-corpus": (1.01, 1.07), "starcoder": (1.10, 0.63),
}  # fmt: skip
TRAIN_TO_TEST = {
    "hellaswag": (0.997, 1.000), "winogrande": (0.990, 0.998), "piqa": (0.993, 0.997),
    "openbook_qa": (0.990, 0.993), "mmlu": (0.974, 0.994), "arc_challenge": (0.964, 0.980),
    "arc_easy": (0.944, 0.969), "sciq": (0.73, 0.91),
}  # fmt: skip
TEST_TO_TEST = {"hellaswag": 0.996, "slimpajama": 0.998, "arc_easy": 0.921, "sciq": 0.687}
TRANSLATION = {  # skyline, published translation, baseline
    "fineweb-100b": (0.992, 0.990, 0.961), EDU: (0.992, 0.990, 0.953),
    "proof-pile-2": (0.988, 0.988, 0.928), "slimpajama-chunk1": (0.992, 0.991, 0.975),
    "smollm-corpus": (0.992, 0.991, 0.947), "starcoder": (0.987, 0.986, 0.450),
}  # fmt: skip


SWEEP, EXTRA = "kempner_sweep.csv", "kempner_extrapolation.csv"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Runs to fit, runs beyond the largest budget among them, and laws of every set."""

    table: pd.DataFrame
    beyond: pd.DataFrame
    laws: dict[tuple[str, str], FitResult]

    @property
    def largest(self) -> float:
        """Largest compute that is fitted, FLOPs."""
        return float(self.table["flops"].max())


def sections(folder: Path) -> Iterator[Section]:
    """Yield the sections one by one; one that cannot be computed does not stop the others."""
    table, beyond, notes = read(folder)
    if notes:
        yield Section(title="Kempner: rows set aside, and what becomes of them", notes=notes)
    sweep = Sweep(table=table, beyond=beyond, laws=kaplan_laws(table))
    parts: list[Callable[[Sweep], Section]] = [
        law_section, train_to_train, train_to_test, test_to_test,
    ]  # fmt: skip
    for part in parts:
        yield _attempt(part, sweep)
    whole = pd.concat([table, beyond], ignore_index=True) if len(beyond) else table
    yield from heldout.sections(whole, specimens(whole), sweep.largest, has_beyond=len(beyond) > 0)
    yield _attempt(translation, sweep)


def _attempt(part: Callable[[Sweep], Section], sweep: Sweep) -> Section:
    """Return a section, or one with the reason why it is left out."""
    try:
        return part(sweep)
    except UserError as mistake:
        title = part.__name__.replace("_", "-").removesuffix("-section")
        return Section(title=f"Kempner: {title}: left out", notes=[str(mistake)])


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return rows to fit, rows beyond the sweep's own largest budget, and notes on all others.

    The sweep's own largest budget is that of kempner_sweep.csv, at most 4.84e19 FLOPs. Rows of
    kempner_extrapolation.csv are never fitted.
    """
    own = import_sweep("kempner", folder / SWEEP)
    notes = list(own.notes)
    table = own.table[own.table["flops"] <= LARGEST * SAME_BUDGET]
    if table.empty:
        raise UserError(f"{SWEEP} has no run of at most {LARGEST:.3g} FLOPs: nothing to fit")
    beyond = own.table[own.table["flops"] > LARGEST * SAME_BUDGET]
    if (folder / EXTRA).is_file():
        try:
            more = import_sweep("kempner", folder / EXTRA)
        except UserError as mistake:
            notes.append(f"{mistake}; left out")
        else:
            new, left = _beyond(more.table, own.table, float(table["flops"].max()))
            beyond = pd.concat([beyond, new], ignore_index=True) if len(beyond) else new
            notes += [*more.notes, *left]
    nameless = table["pretraining_data"].isna(), beyond["pretraining_data"].isna()
    for rows, name, mask in zip(
        (table, beyond), (SWEEP, "beyond the sweep"), nameless, strict=True
    ):
        if mask.any():
            notes.append(f"{name}: {_runs(rows[mask])} without a pretraining set; left out")
    table, beyond = table[~nameless[0]], beyond[~nameless[1]]
    alone = sorted(set(beyond["pretraining_data"]) - set(table["pretraining_data"]))
    for data in alone:
        runs = _runs(beyond[beyond["pretraining_data"] == data])
        notes.append(f"{data}: {runs} beyond the sweep, none within: nothing to predict from")
    beyond = beyond[~beyond["pretraining_data"].isin(alone)]
    return table.reset_index(drop=True), beyond.reset_index(drop=True), notes


def _beyond(
    extra: pd.DataFrame, own: pd.DataFrame, largest: float
) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of an extrapolation file beyond the sweep, and notes on the other rows.

    A run is identified by its id and its compute: an id that occurs again at other compute is
    another run.
    """
    notes = []
    budget = own.groupby("run_id")["flops"].max().reindex(extra["run_id"]).to_numpy()
    repeated = pd.Series(np.abs(extra["flops"] / budget - 1) < SAME_BUDGET - 1, index=extra.index)
    if repeated.any():
        notes.append(f"{EXTRA}: {_runs(extra[repeated])} that {SWEEP} has too; counted once")
    within = ~repeated & ~(extra["flops"] > largest * SAME_BUDGET)
    if within.any():
        notes.append(
            f"{EXTRA}: {_runs(extra[within])} not beyond the sweep's own {largest:.3g} FLOPs; "
            "neither fitted nor predicted"
        )
    new = extra[~repeated & ~within].copy()
    again = new["run_id"].isin(own["run_id"])
    if again.any():
        notes.append(f"{EXTRA}: {_runs(new[again])} with an id of the sweep at other compute; kept")
        new.loc[again, "run_id"] += new.loc[again, "flops"].map("@{:.3g}".format)
    return new, notes


def _runs(rows: pd.DataFrame) -> str:
    count = rows["run_id"].nunique()
    return f"{count} run{'s' if count != 1 else ''} ({named(rows['run_id'])})"


def kaplan_laws(table: pd.DataFrame) -> dict[tuple[str, str], FitResult]:
    """Fit the published law to all losses at once."""
    return laws_of(table, Kaplan())


def laws_of(table: pd.DataFrame, law, sets: Sequence[str] | None = None):
    """Fit a law to each (pretraining set, eval set)."""
    keys, problems = [], []
    for data, rows in table.groupby("pretraining_data"):
        for name in sets or sorted(rows["eval_set"].unique()):
            points = one_set(rows, name, "loss")
            if len(points) < 6:
                continue
            inputs = {"N": points["params"].to_numpy(float), "D": points["tokens"].to_numpy(float)}
            keys.append((str(data), name))
            problems.append(FitProblem(inputs=inputs, target=points["value"].to_numpy(float)))
    return dict(zip(keys, fit_many(law, problems), strict=True))


def own_text(data: str, eval_set: str) -> bool:
    """Return whether an evaluation set is a pretraining set's own validation split: the x axis."""
    return data.startswith(eval_set.replace("_", "-"))


def specimens(table: pd.DataFrame) -> list[Specimen]:
    """Return train-to-train, train-to-validation and train-to-task lines, every set and pair."""
    within = within_groups(table, x_sets=[OWN_SET], group_by=VARY)
    within = [s for s in within if not own_text(s.group["pretraining_data"], s.y_set)]
    across = between_groups(table, vary=VARY, group_by=VARY)
    return [s for s in across + within if s.pairs is not None and len(s.pairs) > 8]


def in_sample(specimen: Specimen, laws: dict[tuple[str, str], FitResult]) -> float:
    """Return R^2 of the published procedure on its own points; NaN if it has no answer."""
    old = _published(specimen, laws)
    if old is None:
        return float("nan")
    return r_squared(specimen.pairs.y, old.predict(specimen.pairs.x))


def _published(specimen: Specimen, laws: dict[tuple[str, str], FitResult]) -> PublishedLine | None:
    """Return the published line of a specimen."""
    x_data = specimen.group["pretraining_data"]
    y_data = (specimen.y_group or specimen.group)["pretraining_data"]
    try:
        E_x = laws[x_data, specimen.x_set].parameters["E"]
        E_y = laws[y_data, specimen.y_set].parameters["E"]
        return published_line(specimen.pairs, E_x, E_y)
    except (KeyError, UserError):
        return None


def law_section(sweep: Sweep) -> Section:
    """Return the section of compute-to-loss laws."""
    chinchilla = laws_of(sweep.table, Chinchilla(), [OWN_SET])
    rows = []
    for data, name in sweep.laws:
        if name != OWN_SET:
            continue
        E, ours = (
            laws[data, OWN_SET].parameters.get("E", np.nan) for laws in (sweep.laws, chinchilla)
        )
        published = f"{KAPLAN_E[data]:.2f}" if data in KAPLAN_E else ""
        rows.append(_row(f"E of {data}", published, f"{E:.2f}", f"{ours:.2f}"))
    kaplan = [law.r2 for key, law in sweep.laws.items() if key[1] == OWN_SET]
    if kaplan:
        ours = np.mean([law.r2 for law in chinchilla.values()])
        rows.append(_row("mean R2", "0.9905", f"{np.mean(kaplan):.4f}", f"{ours:.4f}"))
    return Section(
        title="Kempner: laws of the own validation loss (published: Kaplan form; ours: Chinchilla)",
        rows=rows,
    )


def train_to_train(sweep: Sweep) -> Section:
    """Return the section of train-to-train lines."""
    found = between_groups(sweep.table, vary=VARY, group_by=VARY)
    rows, table, notes = [], [], []
    for specimen in found:
        source, target = (g["pretraining_data"] for g in (specimen.group, specimen.y_group))
        line, old = fit_specimen(specimen, options=FAST), _published(specimen, sweep.laws)
        if not line.parameters or old is None:
            why = line.message or "the published procedure has no answer"
            notes.append(f"{source} -> {target}: left out: {why}")
            continue
        table.append(
            {
                "source": source, "target": target, "runs": line.n_runs,
                "pairing": str(line.pairing), "published_kappa": old.kappa, "published_K": old.K,
                "published_r2": r_squared(specimen.pairs.y, old.predict(specimen.pairs.x)),
                **line.parameters, "r2": line.r2, "r2_straight": line.r2_linear,
            }
        )  # fmt: skip
        if source == EDU and target in FROM_EDU:
            kappa, K = FROM_EDU[target]
            what = f"kappa, K of {EDU} -> {target}"
            ours = f"{line.parameters['kappa']:.2f}, {line.parameters['K']:.2f}"
            rows.append(_row(what, f"{kappa:.2f}, {K:.2f}", f"{old.kappa:.2f}, {old.K:.2f}", ours))
    if not table:
        raise UserError("; ".join(notes) or "one pretraining set: no pair of them")
    frame = pd.DataFrame(table)
    for what, value, pick in (("mean", "0.9990", np.mean), ("min", "0.9971", np.min)):
        old, new = pick(frame["published_r2"]), pick(frame["r2"])
        rows.append(_row(f"{what} R2, {len(frame)} pairs", value, f"{old:.4f}", f"{new:.4f}"))
    return Section(
        title="Kempner: train-to-train",
        rows=rows,
        notes=[
            "published numbers are over 30 pairs; ours is fitted with E's, so kappa and K differ",
            *notes,
        ],
        tables={"train_to_train": frame},
    )


def train_to_test(sweep: Sweep) -> Section:
    """Return the section of train-to-validation and train-to-task lines."""
    found = [s for s in specimens(sweep.table) if s.kind is not LineKind.TRAIN_TO_TRAIN]
    table = pd.DataFrame(
        {
            "data": [s.group["pretraining_data"] for s in found],
            "eval_set": [s.y_set for s in found],
            "published_r2": [in_sample(s, sweep.laws) for s in found],
            "r2": [fit_specimen(s, options=FAST).r2 for s in found],
        }
    )
    rows = []
    for name, published in TRAIN_TO_TEST.items():
        part = table[table["eval_set"].str.startswith(name)]
        if part.empty:
            continue
        rerun, ours = spread(part["published_r2"].tolist()), spread(part["r2"].tolist())
        rows.append(_row(f"R2 {name}", spread(published), rerun, ours))
    return Section(
        title="Kempner: train-to-test, range of R2 over pretraining sets",
        rows=rows,
        notes=["ours weighs low losses, for prediction; R2 weighs all points alike"],
        tables={"train_to_test": table},
    )


def test_to_test(sweep: Sweep) -> Section:
    """Return the section of test-to-test lines."""
    rows, table = [], []
    for name, published in TEST_TO_TEST.items():
        if name not in set(sweep.table["eval_set"]):
            continue
        found = between_groups(sweep.table, vary=VARY, group_by=VARY, x_set=name)
        found = [s for s in found if s.pairs is not None and len(s.pairs) > 8]
        if not found:
            continue
        lines: list[Line] = [fit_specimen(s, options=FAST) for s in found]
        old = [in_sample(s, sweep.laws) for s in found]
        rerun, ours = np.nanmedian(old), np.nanmedian([line.r2 for line in lines])
        rows.append(_row(f"median R2 {name}", f"{published}", f"{rerun:.3f}", f"{ours:.3f}"))
        table += [
            {"eval_set": name, "line": line.name, "published_r2": r2, "r2": line.r2}
            for line, r2 in zip(lines, old, strict=True)
        ]
    return Section(
        title="Kempner: test-to-test", rows=rows, tables={"test_to_test": pd.DataFrame(table)}
    )


def translation(sweep: Sweep) -> Section:
    """Return the section of translated laws."""
    choose = near_optimal(leave_out=[TWENTY_LAYERS])
    scores = score_translations(sweep.table, choose=choose, group_by=VARY)
    if scores.empty:
        raise UserError("one pretraining set: nothing to translate to")
    scores = scores.assign(
        published_procedure=[
            heldout.published_translation(sweep.table, row.source, row.target, choose, sweep.laws)
            for row in scores.itertuples()
        ]
    )
    kaplan = {d: _ends(sweep.table, d, choose) for d in scores["target"].unique()}
    rows = []
    for target, part in scores.groupby("target"):
        published = TRANSLATION.get(str(target), (None,) * 3)
        sky, mid, base = ("" if v is None else f"{v:.3f}" for v in published)
        low, high = kaplan[target]
        first = part.iloc[0]
        rows += [
            _row(f"{target}: skyline, law on all", sky, f"{high:.3f}", f"{first.skyline:.4f}"),
            _row(f"{target}: translated", mid, f"{part.published_procedure.mean():.3f}",
                 f"{part.r2.mean():.4f}"),
            _row(f"{target}: baseline, law on few", base, f"{low:.3f}", f"{first.baseline:.4f}"),
        ]  # fmt: skip
    old, new = scores["published_procedure"].mean(), scores["r2"].mean()
    rows.append(_row("mean R2 translated", ".986 - .991", f"{old:.4f}", f"{new:.4f}"))
    return Section(
        title="Kempner: translation from a full sweep and 6-8 runs, R2 on the whole target grid",
        rows=rows,
        notes=[
            f"{row.source} -> {row.target}: left out: {row.message}"
            for row in scores.itertuples()
            if row.message
        ],
        tables={"translation": scores},
    )


def _ends(table: pd.DataFrame, data: str, choose) -> tuple[float, float]:
    grid = one_set(table[table["pretraining_data"] == data], OWN_SET, "loss")
    scores = []
    for rows in (grid[choose(grid)], grid):
        law = fit_law(rows, Kaplan())
        if not law.parameters:
            scores.append(float("nan"))
            continue
        predicted = law.predict(N=grid["params"].to_numpy(), D=grid["tokens"].to_numpy())
        scores.append(r_squared(grid["value"].to_numpy(), predicted))
    return scores[0], scores[1]


def _row(what: str, published: str, rerun: str, ours: str) -> Comparison:
    return Comparison(what=what, published=published, rerun=rerun, ours=ours)
