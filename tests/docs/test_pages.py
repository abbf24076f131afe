"""The documentation builds without a warning, and its parts from the code are complete."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "docs" / "extensions"), str(REPOSITORY / "docs" / "figures")]


@pytest.mark.slow
def test_the_pages_build_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q"]
    command += ["-b", "dummy", "-d", str(tmp_path / "doctrees"), "docs", str(tmp_path / "html")]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    said = [line for line in built.stderr.splitlines() if "WARNING" in line or "ERROR" in line]
    assert built.returncode == 0, "\n".join(said) or built.stderr


# --- public names --------------------------------------------------------------------------------


@pytest.fixture
def undocumented(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Names without a docstring in a module of the given source."""
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    import public_names

    def names(source: str) -> list[str]:
        module = types.ModuleType("planted")
        monkeypatch.setitem(sys.modules, "planted", module)
        exec(compile(source, "planted", "exec"), module.__dict__)
        return list(public_names.undocumented(module))

    return names


def test_public_names_without_a_docstring_are_found(undocumented) -> None:
    source = """
import dataclasses
def bare(): ...
def _private(): ...
def documented():
    "Text."
class Bare: ...
@dataclasses.dataclass
class Options:
    width: int = 1
class Documented:
    "Text."
    def method(self): ...
    def _private(self): ...
    @property
    def width(self): ...
    @classmethod
    def of(cls): ...
"""
    assert undocumented(source) == [
        "planted",
        "planted.bare",
        "planted.Bare",
        "planted.Options",
        "planted.Documented.method",
        "planted.Documented.width",
        "planted.Documented.of",
    ]


def test_documented_inherited_and_default_names_pass(undocumented) -> None:
    source = '''
"""Text."""
import dataclasses
class Base:
    "Text."
    def method(self):
        "Text."
class Child(Base):
    "Text."
    def method(self): ...
@dataclasses.dataclass
class Options:
    "Text."
    rule: object = lambda value: True
'''
    assert undocumented(source) == []


@pytest.mark.parametrize(("docstring", "status"), [('"Text."', 0), ("pass", 1)])
def test_a_public_name_without_a_docstring_fails_the_build(docstring, status, tmp_path) -> None:
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    package = tmp_path / "planted_package"
    package.mkdir()
    (package / "__init__.py").write_text(f'"Text."\n\ndef name():\n    {docstring}\n')
    (tmp_path / "index.md").write_text("# Title\n")
    settings = ["extensions=myst_parser,public_names", "documented_package=planted_package"]
    command = [sys.executable, "-m", "sphinx", "-C", "-W", "-q", "-b", "dummy"]
    command += [word for setting in settings for word in ("-D", setting)]
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY / "docs" / "extensions")])
    built = subprocess.run(
        [*command, str(tmp_path), str(tmp_path / "built")],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert built.returncode == status, built.stderr
    assert ("planted_package.name" in built.stderr) == bool(status)


# --- options -------------------------------------------------------------------------------------


def test_every_option_has_a_text() -> None:
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    from reference_pages import option_rows, owners

    bare = {
        f"{name}.{field}"
        for name, (component, _) in owners().items()
        for field, _, _, text in option_rows(component)
        if not text
    }
    assert not bare, f"describe these under Attributes: or Args: {', '.join(sorted(bare))}"


def test_entries_of_a_docstring_are_read() -> None:
    from docstrings import section_entries

    docstring = """Summary.

Attributes:
    width: channels: of the
        stream.
    low, high: both ends.

Raises:
    UserError: never.
"""
    both = "both ends."
    assert section_entries(docstring) == {
        "width": "channels: of the stream.",
        "low": both,
        "high": both,
    }


def test_every_verb_has_a_page() -> None:
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    from reference_pages import VERBS

    modules = {
        path.stem
        for path in (REPOSITORY / "lossline").glob("*.py")
        if "run_verb(" in path.read_text(encoding="utf-8")
    }
    assert modules == set(VERBS)


# --- examples ------------------------------------------------------------------------------------


def test_indented_examples_become_code() -> None:
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    from indented_examples import mark_examples

    docstring = """Read it:

    {"a_*": 1}

    {"b": 2}

- An item

  of two paragraphs.

Marked::

    code

Args:
    name: text.

        More text.
"""
    lines = docstring.splitlines()
    mark_examples(lines)
    expected = docstring.replace("Read it:\n\n", "Read it:\n\n::\n\n", 1)
    assert lines == expected.splitlines()


def test_examples_in_docstrings_are_indented() -> None:
    """Find examples right below a summary: they lose their indentation, and look like prose."""
    outside = [
        f"{path.relative_to(REPOSITORY)}: {paragraph}"
        for path in sorted((REPOSITORY / "lossline").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        for paragraph in (ast.get_docstring(node) or "").split("\n\n")
        if not paragraph.startswith(" ") and _is_code(paragraph)
    ]
    assert not outside


def _is_code(paragraph: str) -> bool:
    try:
        statements = ast.parse(paragraph).body
    except SyntaxError:
        return False
    return any(isinstance(item, ast.Assign | ast.Import | ast.ImportFrom) for item in statements)


# --- links ---------------------------------------------------------------------------------------


def test_links_between_files_become_links_between_pages() -> None:
    pytest.importorskip("sphinx", reason="needs the [docs] extra")
    from repository_pages import with_links

    text = (
        "[a](../../docs/how_lossline_decides.md#moves) [b](planted.md) [c](../lines/README.md) "
        "![d](x.png) [e](https://x.org) [`planted.md`](planted.md)"
    )
    page = "experiments/attribution.md"
    assert with_links(text, source="experiments/attribution/README.md", page=page) == (
        "[a](../how_lossline_decides.md#moves) b (`experiments/attribution/planted.md`) "
        "[c](lines.md) ![d](../../experiments/attribution/x.png) [e](https://x.org) `planted.md`"
    )


def test_pages_of_an_earlier_build_are_removed(tmp_path: Path) -> None:
    from generated_pages import replace_pages

    replace_pages(tmp_path / "api", {"old.md": "a", "kept.md": "b"}, whole=True)
    before = (tmp_path / "api" / "kept.md").stat().st_mtime_ns
    replace_pages(tmp_path / "api", {"kept.md": "b", "new.md": "c"}, whole=True)
    assert sorted(path.name for path in (tmp_path / "api").iterdir()) == ["kept.md", "new.md"]
    assert (tmp_path / "api" / "kept.md").stat().st_mtime_ns == before


# --- quotes --------------------------------------------------------------------------------------


def test_the_readme_quotes_the_verdict_of_the_quickstart() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    verdict = (REPOSITORY / "experiments/quickstart/verdict.txt").read_text(encoding="utf-8")
    quoted = [
        line
        for line in readme.splitlines()
        if line.startswith(("Factors by ", "- Changing ", "- Inconclusive"))
    ]
    assert len(quoted) == 6  # the order of the factors, and five of them
    for line in quoted:
        parts = [part.strip() for part in line.split("…")]
        assert all(part in verdict for part in parts), line


# --- architecture, citation ----------------------------------------------------------------------


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    import architecture

    with Image.open(architecture.PICTURE) as picture:
        drawn = json.loads(picture.text["Description"])
    today = json.loads(architecture.described(architecture.room_imports()))
    assert drawn == today, "run python docs/figures/architecture.py"


def test_every_room_has_a_paragraph() -> None:
    import architecture

    text = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    for room in architecture.rooms():
        assert f"**[{room}](reference/api/{room}.md)**" in text


def test_the_citation_has_what_the_format_requires() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The lossline developers"}]
    assert citation["type"] in ("software", "dataset")
    import lossline

    assert str(citation["version"]) == lossline.__version__
