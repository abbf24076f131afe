"""Appearance of runs: color = pretraining data, marker = architecture, filling = intervention.

All figures of a report share one ``Appearance``, so that a color has one meaning on every page. The
colors are those of Okabe and Ito, then Tol's "muted" set. Both were designed for color-blind
readers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lossline.matching.groups import SETTINGS
from lossline.options.roles import FACTS, Role, fact_of

COLORS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D",
    "#332288", "#882255", "#999933", "#44AA99", "#AA4499", "#117733", "#CC6677",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h", "<", ">")
DASHES: tuple[Any, ...] = (
    "-", (0, (5, 1.8)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)), (0, (8, 2)),
)  # fmt: skip
NOT_STATED = "not stated"

# rcParams of every figure, sized for print at the width of a two-column page.
RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.titlepad": 4.0,
    "axes.labelpad": 2.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2.0,
    "ytick.major.pad": 2.0,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.labelspacing": 0.35,
    "legend.title_fontsize": 7,
    "lines.solid_capstyle": "butt",
    # Names of sets and runs may hold dollar signs, which must not start mathematics.
    "text.parse_math": False,
    "figure.facecolor": "white",
    "figure.dpi": 120,
    "savefig.dpi": 200,
    "svg.hashsalt": "lossline",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """A change other than data, architecture or size, and the marker filling that shows it.

    Attributes:
        name: name in the legend.
        facts: columns of the loss table that belong to it.
        fillstyle: Matplotlib fill style of its markers.
    """

    name: str
    facts: tuple[str, ...]
    fillstyle: str


INTERVENTIONS = (
    Intervention(name="tokenizer", facts=("tokenizer",), fillstyle="none"),
    Intervention(
        name="optimization",
        facts=SETTINGS,
        fillstyle="left",
    ),
    Intervention(
        name="context length", facts=("context_length", "option.documents"), fillstyle="top"
    ),
    Intervention(name="token selection", facts=("token_selection",), fillstyle="bottom"),
    Intervention(
        name="model options",
        facts=tuple(
            fact.column
            for fact in FACTS
            if fact.role is Role.FACTOR and fact.owner == "architecture"
        ),
        fillstyle="right",
    ),
)


def text(value: Any) -> str:
    """Return a fact as text: one spelling per number, and "not stated" for a missing fact."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return NOT_STATED
    if isinstance(value, float):
        return f"{value:g}"
    return str(value.value if isinstance(value, enum.Enum) else value)


def label(name: str, limit: int = 26) -> str:
    """Return a name as text for a figure; long names lose their middle.

    A space is put before a leading underscore: Matplotlib leaves labels that start with one out of
    legends.
    """
    return _shortened(name, limit, (limit - 1) // 2)


def labels(names: Sequence[str], limit: int = 26) -> list[str]:
    """Return names as texts for one figure, in which no two different names look the same.

    Names lose their middle, or else their end, or else less than ``limit`` asks for.
    """
    for length in range(limit, max(map(len, names), default=0)):
        for tail in ((length - 1) // 2, 0):
            found = [_shortened(name, length, tail) for name in names]
            if len(set(found)) == len(set(names)):
                return found
    return [label(name, max(limit, len(name))) for name in names]


def _shortened(name: str, limit: int, tail: int) -> str:
    """Return at most ``limit`` characters of a name, the last ``tail`` of them from its end."""
    if len(name) > limit:
        name = f"{name[: limit - 1 - tail]}…{name[len(name) - tail :]}"
    return f" {name}" if name.startswith("_") else name


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Colors, markers and fillings of one report.

    Attributes:
        colors: pretraining data -> color.
        markers: architecture -> marker.
        dashes: architecture -> line style.
        usual: fact -> its commonest value. A run with another value is an intervention.
        interventions: run_id -> intervention of this run; usual runs are absent.
    """

    colors: Mapping[str, str]
    markers: Mapping[str, str]
    dashes: Mapping[str, Any]
    usual: Mapping[str, str]
    interventions: Mapping[str, Intervention] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pd.DataFrame) -> Appearance:
        """Return the appearance of every run of a loss table."""
        runs = table.drop_duplicates("run_id").set_index("run_id").sort_index()
        data = _by_frequency(runs, "pretraining_data")
        architectures = _by_frequency(runs, "architecture")
        usual: dict[str, str] = {}
        shown: dict[str, Intervention] = {}
        for kind in INTERVENTIONS:
            for fact in kind.facts:
                values = _texts(runs, fact)
                usual[fact] = _commonest(values)
                reference = _reference(runs, fact, values, usual[fact])
                for run_id in runs.index[(values != reference).to_numpy()]:
                    shown.setdefault(str(run_id), kind)
        return cls(
            # Alphabetical order: two tables with the same sets then have the same colors.
            colors={name: COLORS[i % len(COLORS)] for i, name in enumerate(sorted(data))},
            markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(architectures)},
            dashes={name: DASHES[i % len(DASHES)] for i, name in enumerate(architectures)},
            usual=usual,
            interventions=shown,
        )

    def color(self, data: Any) -> str:
        """Return the color of a pretraining set; gray if the table does not have it."""
        return self.colors.get(text(data), "#7F7F7F")

    def marker(self, architecture: Any) -> str:
        """Return the marker of an architecture."""
        return self.markers.get(text(architecture), "o")

    def dash(self, architecture: Any) -> Any:
        """Return the line style of an architecture."""
        return self.dashes.get(text(architecture), "-")

    def is_usual(self, fact: str, value: Any) -> bool:
        """Return whether ``value`` is the commonest value of a fact, or the fact has none."""
        return self.usual.get(fact, text(value)) == text(value)

    def kind(self, run: str) -> str:
        """Return the name of a run's intervention; empty if it is a usual run."""
        return self.interventions[run].name if run in self.interventions else ""

    def shown_interventions(self) -> tuple[Intervention, ...]:
        """Return the interventions that occur, in the order of ``INTERVENTIONS``."""
        present = {kind.name for kind in self.interventions.values()}
        return tuple(kind for kind in INTERVENTIONS if kind.name in present)


def _texts(runs: pd.DataFrame, fact: str) -> pd.Series:
    if fact not in runs:
        return pd.Series(NOT_STATED, index=runs.index, dtype=object)
    return runs[fact].astype(object).map(text)


def _by_frequency(runs: pd.DataFrame, fact: str) -> list[str]:
    counts = _texts(runs, fact).value_counts()
    return sorted(counts.index, key=lambda value: (-int(counts[value]), value))


def _commonest(values: Iterable[str]) -> str:
    counts = pd.Series(list(values), dtype=object).value_counts()
    return min(counts.index, key=lambda value: (-int(counts[value]), value), default=NOT_STATED)


def _reference(
    runs: pd.DataFrame, column: str, values: pd.Series, commonest: str
) -> pd.Series | str:
    """Usual value of a fact for each run.

    For an option of the architecture, it is the commonest value within the architecture. For a
    setting chosen by model size, it is the commonest within the size. Else it is the commonest of
    all runs.
    """
    fact = fact_of(column)
    if fact is None or not (fact.owner == "architecture" or fact.setting):
        return commonest
    like = _texts(runs, "architecture" if fact.owner == "architecture" else "params")
    return values.groupby(like.to_numpy()).transform(_commonest)
