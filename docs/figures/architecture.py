"""Draw the rooms of lossline and the imports between them: docs/figures/architecture.png.

    python docs/figures/architecture.py

Rooms and arrows come from the code (every import statement of every module). An arrow that follows
from two others is left out: where A imports B and B imports C, an arrow from A to C is not drawn.
The figure keeps the arrows of the code in its metadata, and a test compares them with the code.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

PACKAGE = Path(__file__).resolve().parents[2] / "lossline"
PICTURE = Path(__file__).with_name("architecture.png")

Graph = dict[str, set[str]]


def imported_names(source: str) -> set[str]:
    """Return the full names of all that a module imports, wherever the statement is.

    Imports that only a type checker follows (``if TYPE_CHECKING:``) are left out.
    """
    tree = ast.parse(source)
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def rooms() -> list[str]:
    """Return the names of the packages directly below ``lossline``."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def room_imports() -> Graph:
    """Return room -> the other rooms that its modules import."""
    known = rooms()
    graph: Graph = {room: set() for room in known}
    for room in known:
        for path in (PACKAGE / room).rglob("*.py"):
            for name in imported_names(path.read_text(encoding="utf-8")):
                parts = name.split(".")
                if parts[0] == "lossline" and len(parts) > 1 and parts[1] in known:
                    graph[room].add(parts[1])
        graph[room].discard(room)
    return graph


def without_shortcuts(graph: Mapping[str, set[str]]) -> Graph:
    """Return the graph without arrows that follow from two or more others."""

    def reached(room: str) -> set[str]:
        below = graph[room]
        return below.union(*map(reached, below)) if below else set()

    return {
        room: below - set().union(*map(reached, below)) if below else set()
        for room, below in graph.items()
    }


# --- the picture ---------------------------------------------------------------------------------

# Left: from text to losses, on accelerators. Middle: what both halves use. Right: from losses to
# verdicts, on a laptop. Position (x, y) of each room's center.
_PLACES = {
    "cli": (5.0, 7.6),
    "gin_files": (5.0, 8.36),
    "studies": (2.4, 7.6),
    "next_studies": (2.4, 8.36),
    "compilation": (1.4, 6.0),
    "scoring": (4.55, 6.0),
    "token_curves": (4.3, 6.76),
    "evaluation": (3.0, 6.0),
    "training": (2.3, 5.0),
    "conversion": (3.9, 5.0),
    "sampling": (3.9, 4.24),
    "runs": (2.0, 4.0),
    "objectives": (3.8, 3.46),
    "batches": (0.4, 4.0),
    "stores": (0.4, 3.0),
    "pages": (-1.1, 4.0),
    "choices": (-0.1, 5.0),
    "models": (2.0, 3.0),
    "corpora": (0.4, 2.0),
    "ops": (2.0, 2.0),
    "vocabularies": (0.4, 1.0),
    "cluster": (-1.1, 1.0),
    "sharding": (2.0, 1.0),
    "tables": (5.4, 2.0),
    "options": (5.4, 1.0),
    "buckets": (5.95, 6.76),
    "explorer": (6.4, 6.0),
    "reporting": (8.2, 6.0),
    "fits": (8.2, 5.0),
    "design": (9.8, 6.0),
    "mixtures": (9.8, 5.0),
    "prediction": (9.8, 4.0),
    "lines": (8.2, 4.0),
    "attribution": (6.4, 4.0),
    "selection": (7.83, 3.0),
    "token_dynamics": (9.6, 3.0),
    "comparisons": (6.4, 5.0),
    "matching": (6.4, 3.0),
    "laws": (8.9, 2.0),
}
_WIDTH, _HEIGHT = 1.36, 0.42
_COLORS = {"left": "#dbe9f6", "middle": "#fdf0d5", "right": "#e2f0d9"}


def _half(x: float) -> str:
    return "left" if x < 4.6 else "middle" if x < 6 else "right"


def draw(path: Path = PICTURE) -> None:
    """Draw the picture; its metadata holds the arrows of the code as JSON."""
    graph = room_imports()
    if missing := sorted(set(graph) ^ set(_PLACES)):
        raise SystemExit(f"docs/figures/architecture.py: give {', '.join(missing)} a position")
    figure, ax = plt.subplots(figsize=(11.6, 7.6))
    for room, below in without_shortcuts(graph).items():
        for other in sorted(below):
            _arrow(ax, _PLACES[room], _PLACES[other])
    for room, (x, y) in _PLACES.items():
        _box(ax, room, x, y)
    for x, text in (
        (1.5, "text \u2192 losses (JAX, on a mesh)"),
        (5.4, "both halves"),
        (8.2, "losses \u2192 verdict (laptop, float64)"),
    ):
        ax.text(x, 0.3, text, ha="center", va="center", fontsize=10, style="italic")
    ax.set(xlim=(-1.85, 10.6), ylim=(0.05, 8.7))
    ax.axis("off")
    figure.savefig(path, dpi=150, bbox_inches="tight", metadata={"Description": described(graph)})
    plt.close(figure)


def described(graph: Mapping[str, set[str]]) -> str:
    """Return the arrows as the text that the picture carries."""
    return json.dumps({room: sorted(below) for room, below in sorted(graph.items())})


def _box(ax: Axes, room: str, x: float, y: float) -> None:
    corner = (x - _WIDTH / 2, y - _HEIGHT / 2)
    style = "round,pad=0.02,rounding_size=0.1"
    box = FancyBboxPatch(
        corner,
        _WIDTH,
        _HEIGHT,
        boxstyle=style,
        fc=_COLORS[_half(x)],
        ec="#444444",
        lw=0.9,
        zorder=3,
    )
    ax.add_patch(box)
    size = 10.5 if len(room) < 14 else 8.8
    ax.text(x, y, room, ha="center", va="center", fontsize=size, zorder=4)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow from the lower edge of one box to the upper edge of another, or side to side."""
    (x0, y0), (x1, y1) = start, end
    if y0 > y1:
        tail, head = (x0, y0 - _HEIGHT / 2), (x1, y1 + _HEIGHT / 2)
    else:
        side = _WIDTH / 2 if x1 > x0 else -_WIDTH / 2
        tail, head = (x0 + side, y0), (x1 - side, y1)
    arrow = FancyArrowPatch(
        tail,
        head,
        arrowstyle="-|>",
        mutation_scale=10,
        lw=0.9,
        color="#777777",
        shrinkA=2,
        shrinkB=2,
        zorder=2,
    )
    ax.add_patch(arrow)


if __name__ == "__main__":
    draw()
    print(PICTURE)
