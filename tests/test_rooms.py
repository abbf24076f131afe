"""Guarantees of the architecture: which room may import which (docs: architecture)."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "lossline"
SCIENCE = (
    "laws", "lines", "matching", "attribution", "prediction", "mixtures", "selection",
    "comparisons", "fits", "token_dynamics", "design",
)  # fmt: skip
MACHINE = {
    "batches", "cli", "cluster", "compilation", "conversion", "corpora", "evaluation", "explorer",
    "gin_files", "models", "objectives", "ops", "pages", "reporting", "runs", "sampling", "scoring",
    "sharding", "stores", "studies", "training", "vocabularies", "choices", "token_curves",
    "next_studies",
}  # fmt: skip
LONGEST_FILE = 600
MOST_FILES = 17


@functools.cache
def imported(file: Path) -> set[str]:
    """Full names of the modules that a file imports, at the top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


@functools.cache
def rooms() -> dict[str, set[str]]:
    """Room -> the other rooms it imports. Each file outside the rooms counts as a room."""
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        used = {name.split(".")[1] for name in imported(file) if name.startswith("lossline.")}
        found.setdefault(room, set()).update(used - {room, "__version__"})
    return found


def test_no_two_rooms_import_each_other():
    left = {room: set(used) for room, used in rooms().items()}
    while free := [room for room, used in left.items() if not used & left.keys()]:
        for room in free:
            del left[room]
    assert not left, f"these rooms are in a circle or above one: {left}"


def test_no_two_files_import_each_other():
    files = {
        ".".join(("lossline", *file.relative_to(PACKAGE).with_suffix("").parts)): imported(file)
        for file in PACKAGE.rglob("*.py")
    }
    left = {name: used & files.keys() - {name} for name, used in files.items()}
    while free := [name for name, used in left.items() if not used & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these files are in a circle or above one: {sorted(left)}"


@pytest.mark.parametrize("room", SCIENCE)
def test_science_imports_no_machine_and_no_report(room):
    assert not rooms()[room] & MACHINE


def test_attribution_uses_no_fitted_line():
    assert not rooms()["attribution"] & {"laws", "lines", "fits"}


def test_laws_know_no_table():
    assert not rooms()["laws"] & {"tables", "lines", "matching"}


@pytest.mark.parametrize(
    ("library", "room"),
    [("gin", {"cli", "gin_files"}), ("tensorflow", {"corpora", "vocabularies"})],
)
def test_a_library_is_imported_by_one_room_only(library, room):
    users = {
        file.relative_to(PACKAGE).parts[0]
        for file in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == library for name in imported(file))
    }
    assert users == room


def test_files_and_rooms_are_small_enough_to_read():
    for file in PACKAGE.rglob("*.py"):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE, file
    for folder in PACKAGE.rglob("*/"):
        assert len(list(folder.glob("*.py"))) <= MOST_FILES, folder
