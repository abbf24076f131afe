"""How a run looks: color = pretraining data, marker = architecture, filling = intervention.

One `Appearance` is made per study and shared by all its figures, so that a color means the same
thing on every page.
Colors are Okabe and Ito's, then Tol's "muted" set; both were designed for color-blind readers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
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

# rcParams of every figure: sized for print at the width of two columns, with no chart junk.
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
    # Names of sets and runs are a person's text: a dollar sign in them is no mathematics.
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
    """A change that is not data, architecture or size, and the marker filling that shows it."""

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
    """A fact as it is printed: `3e-04` and `3.0E-4` look alike, a missing one says so."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return NOT_STATED
    if isinstance(value, float):
        return f"{value:g}"
    return str(value.value if isinstance(value, enum.Enum) else value)


def label(name: str, limit: int = 26) -> str:
    """A name as a figure prints it: long ones lose their middle, and none is taken for private.

    (Matplotlib leaves labels that start with an underscore out of its legends.)
    """
    if len(name) > limit:
        half = (limit - 1) // 2
        name = f"{name[: limit - 1 - half]}…{name[-half:]}"
    return f" {name}" if name.startswith("_") else name


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """Colors, markers and fillings of one study.

    Attributes:
      colors: pretraining data -> color.
      markers: architecture -> marker.
      dashes: architecture -> line style.
      usual: fact -> its commonest value; a run that differs in it is an intervention.
      interventions: run_id -> the intervention that run shows; runs that show none are absent.
    """

    colors: Mapping[str, str]
    markers: Mapping[str, str]
    dashes: Mapping[str, Any]
    usual: Mapping[str, str]
    interventions: Mapping[str, Intervention] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pd.DataFrame) -> Appearance:
        """The appearance of every run in a loss table (long form, one row = checkpoint x set)."""
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
            # Alphabetical, so that two tables of the same sets give the same colors.
            colors={name: COLORS[i % len(COLORS)] for i, name in enumerate(sorted(data))},
            markers={name: MARKERS[i % len(MARKERS)] for i, name in enumerate(architectures)},
            dashes={name: DASHES[i % len(DASHES)] for i, name in enumerate(architectures)},
            usual=usual,
            interventions=shown,
        )

    def color(self, data: Any) -> str:
        """Color of a pretraining set; grey where it is not of this study."""
        return self.colors.get(text(data), "#7F7F7F")

    def marker(self, architecture: Any) -> str:
        """Marker of an architecture."""
        return self.markers.get(text(architecture), "o")

    def dash(self, architecture: Any) -> Any:
        """Line style of an architecture."""
        return self.dashes.get(text(architecture), "-")

    def is_usual(self, fact: str, value: Any) -> bool:
        """Whether `value` is the study's commonest value of `fact`, or the study has none."""
        return self.usual.get(fact, text(value)) == text(value)

    def shown_interventions(self) -> tuple[Intervention, ...]:
        """The kinds that occur, in the order of `INTERVENTIONS`."""
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
    """The usual value for each run: that of its architecture for an option which the architecture
    brings along, that of its size for a setting chosen by size, else the commonest of all."""
    fact = fact_of(column)
    if fact is None or not (fact.owner == "architecture" or fact.setting):
        return commonest
    like = _texts(runs, "architecture" if fact.owner == "architecture" else "params")
    return values.groupby(like.to_numpy()).transform(_commonest)
