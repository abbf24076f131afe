"""Wrong names are refused before the modules of a verb are imported, which takes seconds."""

from __future__ import annotations

import pytest

from lossline.cli.configuration import run_verb


class Imported(Exception):
    """Raised instead of importing the verb."""


def load() -> None:
    raise Imported


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain.gin").write_text("include 'part.gin'\ntrain.steps = 3\n")
    (tmp_path / "part.gin").write_text("train.batch_size = 4\n")
    (tmp_path / "own.gin").write_text("include 'imports.gin'\n")
    (tmp_path / "imports.gin").write_text(
        "from __gin__ import dynamic_registration\nimport own_parts\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin_file=plain.gin", "--gin.train.stepz=3"], "train has no option 'stepz'"),
        (["--gin_file=plain.gin", "--gin.trian.steps=3"], "'trian'; did you mean train?"),
        (["--gin_file=plain.gin", "--gin.wide/lama.width=3"], "'lama'; did you mean llama?"),
        (["--gin.zzzz.width=3"], "'zzzz'; known names: adam"),
        (["--gin_file=plan.gin"], "no file plan.gin; did you mean plain.gin?"),
    ],
)
def test_a_wrong_name_is_one_line_without_an_import(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        run_verb("train", "d", load, argv=arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.count("\n") == 1 and message in said


@pytest.mark.parametrize(
    "arguments",
    [
        ["--gin_file=plain.gin", "--gin.train.steps=3"],
        ["--gin_file=plain.gin", "--gin.lossline.train.steps=3"],
        ["--gin_file=plain.gin", "--gin.STEPS=3", "--gin.STEPS/macro.value=3"],
        ["--gin_file=own.gin", "--gin.own_parts.Wide.width=3"],  # a module may know it
        ["--gin_bindings=from __gin__ import dynamic_registration"],
    ],
)
def test_a_name_that_may_be_right_is_looked_up(arguments):
    with pytest.raises(Imported):
        run_verb("train", "d", load, argv=arguments)
