"""gin as t5x users write it: dynamic registration, search paths, bindings, includes, macros."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from lossline.cli.configuration import Verb, run_verb


@dataclass(frozen=True, kw_only=True)
class Model:
    width: int
    rate: float = 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    model: Model
    steps: int = 5
    out: str = "here"


VERB = Verb(options=Options, run=print, components={"shown_model": Model}, name="shown")

FILE = "shown.model = @shown_model()\nshown_model.width = %WIDTH\nWIDTH = 8\n"

OWN = """
import dataclasses
from the_verb import Model

@dataclasses.dataclass(frozen=True, kw_only=True)
class Wide(Model):
    factor: float = 1.0

def doubled(width: int, *others, rate=0.1):
    return Model(width=2 * width, rate=rate)

def broken(width: int):
    raise RuntimeError("no such width\\nsecond line")

NUMBER = 3
"""


def run(capsys, *arguments: str) -> Options:
    made: list[Options] = []
    verb = dataclasses.replace(VERB, run=made.append)
    run_verb("shown", "d", lambda: verb, argv=arguments)
    assert not capsys.readouterr().err
    return made[0]


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        run_verb("shown", "d", lambda: VERB, argv=arguments)
    error = capsys.readouterr().err
    assert exit_.value.code == 2 and error.count("\n") == 1, error
    return error


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "the_verb", sys.modules[__name__])
    (tmp_path / "own_parts.py").write_text(OWN)
    (tmp_path / "run.gin").write_text(FILE)
    return tmp_path


def test_macro_of_a_file_is_overridden(work, capsys) -> None:
    assert run(capsys, "--gin_file=run.gin", "--gin.WIDTH=9").model.width == 9
    assert run(capsys, "--gin_file=run.gin", "--gin_bindings=WIDTH = 9").model.width == 9
    assert "%WIDHT is used nowhere" in refused(capsys, "--gin_file=run.gin", "--gin.WIDHT=9")


def test_later_of_two_bindings_counts(work, capsys) -> None:
    lines = ["--gin_file=run.gin", "--gin_bindings", "shown.steps = 2", "--gin.shown.steps=3"]
    assert run(capsys, *lines).steps == 3
    assert run(capsys, *lines, "--gin_bindings=shown.steps = 4").steps == 4
    assert run(capsys, *lines, "--gin_bindings=shown.out = 'a b'").out == "a b"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("shown.steps", "'shown.steps' is not a line of gin. Write NAME"),
        ("shown.steps = x y", "'shown.steps = x y' is not a line of gin."),
        ("shown.stps = 3", "did you mean shown.steps"),
    ],
)
def test_wrong_line_is_named(work, capsys, line, said) -> None:
    assert said in refused(capsys, "--gin_file=run.gin", f"--gin_bindings={line}")


def test_search_paths_find_the_file_and_what_it_includes(work, capsys) -> None:
    for folder, text in (("one", "include 'part.gin'\nshown.steps = 7\n"), ("two", FILE)):
        (work / folder).mkdir()
        (work / folder / ("whole.gin" if folder == "one" else "part.gin")).write_text(text)
    found = run(capsys, "--gin_search_paths=one,two", "--gin_file=whole.gin")
    assert (found.steps, found.model.width) == (7, 8)
    assert "no file whole.gin" in refused(capsys, "--gin_file=whole.gin")
    error = refused(capsys, "--gin_search_paths=three", "--gin_file=run.gin")
    assert "the folder three does not exist" in error


def test_include_is_relative_to_the_file_that_includes(work, capsys) -> None:
    (work / "a/b").mkdir(parents=True)
    (work / "a/run.gin").write_text("include 'b/next.gin'\n")
    (work / "a/b/next.gin").write_text("include 'last.gin'\ninclude '../../run.gin'\n")
    (work / "a/b/last.gin").write_text("shown.steps = 11\n")
    (work / "last.gin").write_text("shown.steps = 12\n")
    assert run(capsys, "--gin_file=a/run.gin").steps == 11


def test_a_missing_include_names_the_file_and_its_line(work, capsys) -> None:
    (work / "a.gin").write_text("# none\ninclude 'none.gin'\n")
    said = refused(capsys, "--gin_file=a.gin")
    assert "a.gin, line 2: no file none.gin to include in " in said
    assert said.endswith(". Correct the path.\n")


def test_a_file_that_includes_itself_is_refused(work, capsys) -> None:
    (work / "a.gin").write_text("include 'b.gin'\n")
    (work / "b.gin").write_text("include 'a.gin'\n")
    assert "includes itself: a.gin → b.gin → a.gin." in refused(capsys, "--gin_file=a.gin")
    (work / "b.gin").write_text("include 'run.gin'\ninclude 'run.gin'\n")
    assert run(capsys, "--gin_file=a.gin").model.width == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A = %B\nB = %A\nshown.steps = %A\n", "%A → %B → %A. Bind one of them to a value."),
        ("A = %A\nshown.steps = %A\n", "macros refer to each other: %A → %A."),
        ("\nshown.steps = (1,\n", "a text or a bracket is not closed. Close it."),
        ('shown.steps = 1\nshown.name = """x\n', "a text or a bracket is not closed. Close it."),
    ],
)
def test_a_file_without_an_end_is_one_line(work, capsys, text, said) -> None:
    (work / "a.gin").write_text(text)
    assert said in refused(capsys, "--gin_file=a.gin")


def test_a_folder_is_no_gin_file(work, capsys) -> None:
    assert "is a folder. Give the path of a gin file." in refused(capsys, f"--gin_file={work}")


def dynamic(work: Path, imports: str, text: str) -> str:
    (work / "own.gin").write_text(f"from __gin__ import dynamic_registration\n{imports}\n{text}\n")
    return "--gin_file=own.gin"


@pytest.mark.parametrize(
    ("imports", "name"),
    [
        ("import own_parts", "own_parts.Wide"),
        ("import own_parts as parts", "parts.Wide"),
        ("import dataclasses as t\nimport own_parts", "own_parts.Wide"),
    ],
)
def test_class_of_an_imported_module(work, capsys, imports, name) -> None:
    path = dynamic(work, imports, f"shown.model = @{name}()\n{name}:\n  width = 4\n  factor = 2\n")
    model = run(capsys, path).model
    assert (type(model).__name__, model.width, model.factor) == ("Wide", 4, 2.0)
    assert isinstance(model.factor, float)
    assert run(capsys, path, "--gin.own_parts.Wide.width=5").model.width == 5


def test_names_of_the_verb_stay_known_beside_imported_ones(work, capsys) -> None:
    path = dynamic(work, "import own_parts", FILE + "shown.steps = 6")
    assert run(capsys, path) == Options(model=Model(width=8), steps=6)
    path = dynamic(
        work,
        "import the_verb as t",
        "shown.model = @t.Model()\nt.Model.width = 3\nt.Options.steps = 9",
    )
    assert run(capsys, path) == Options(model=Model(width=3), steps=9)
    path = dynamic(
        work, "import own_parts", "shown.model = @own_parts.doubled()\nown_parts.doubled.width = 4"
    )
    assert run(capsys, path).model.width == 8


@pytest.mark.parametrize(
    ("imports", "text", "said"),
    [
        ("import not_there", "", "own.gin, line 2: No module named 'not_there'"),
        ("import own_parts", "shown.model = @own_parts.Narrow()", "has no attribute Narrow"),
        ("import own_parts", "shown.model = @other.Wide()", "nothing is called 'other.Wide'"),
        ("import own_parts", "shown.model = @own_parts.NUMBER()", "nothing is called"),
        (
            "import own_parts",
            "shown.model = @own_parts.Wide()\nown_parts.Wide.width = 'x'",
            "own_parts.Wide.width = 'x': must be a whole number",
        ),
        (
            "import own_parts",
            "shown.model = @own_parts.Wide()\nown_parts.Wide.widht = 2",
            "did you mean own_parts.Wide.width",
        ),
        ("import own_parts", "shown.model = @own_parts.Wide()", "missing binding: own_parts.Wide."),
        ("import own_parts as gin", "", "symbol is reserved"),
    ],
)
def test_wrong_dynamic_file_is_one_line(work, capsys, imports, text, said) -> None:
    assert said in refused(capsys, dynamic(work, imports, text))
