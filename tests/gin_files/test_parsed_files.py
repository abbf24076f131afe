"""Options of many runs from files that are parsed once are those of a parse for each."""

from pathlib import Path

import pytest

from lossline import train
from lossline.cli.configuration import build_options
from lossline.errors import UserError
from lossline.gin_files import parsed_files
from lossline.gin_files.parsed_files import ParsedFiles

ROOT = Path(__file__).parents[2]
FILES = [str(ROOT / "gin_configs/runs/quickstart.gin")]
MODEL = str(ROOT / "gin_configs/models/quickstart_mamba.gin")
BINDINGS = (
    ["train.name = 'a'", "train.store = 's'", "train.seed = 3"],
    ["train.name = 'b'", "train.store = 's'", "train.schedule = @constant_rate()"],
    ["train.name = 'c'", "train.store = 's'", "adamw.learning_rate = 0.5"],
    ["train.name = 'd'", "train.store = 's'"],
)


def options(bindings, files, parsed=None):
    return build_options("train", train.load(), gin_files=files, bindings=bindings, parsed=parsed)


def test_options_equal_those_of_files_parsed_anew():
    parsed = ParsedFiles()
    for bindings in (*BINDINGS, *BINDINGS[::-1]):
        for files in (
            [*FILES, MODEL],
            [*FILES, str(ROOT / "gin_configs/models/quickstart_llama.gin")],
        ):
            assert options(bindings, files, parsed) == options(bindings, files)


def test_files_are_parsed_once(monkeypatch):
    parsed = ParsedFiles()
    options(BINDINGS[0], [*FILES, MODEL], parsed)
    monkeypatch.setattr("gin.parse_config_files_and_bindings", None)
    assert options(BINDINGS[2], [*FILES, MODEL], parsed).name == "c"


@pytest.mark.parametrize(
    "wrong", ["train.sed = 3", "trian.seed = 3", "train.seed = 'x'", "adamw.learning_rate = @no()"]
)
def test_errors_are_those_of_files_parsed_anew(wrong):
    parsed = ParsedFiles()
    options(BINDINGS[0], [*FILES, MODEL], parsed)
    with pytest.raises(UserError) as anew:
        options([*BINDINGS[3], wrong], [*FILES, MODEL])
    with pytest.raises(UserError) as known:
        options([*BINDINGS[3], wrong], [*FILES, MODEL], parsed)
    assert str(known.value) == str(anew.value)
    assert options(BINDINGS[3], [*FILES, MODEL], parsed).name == "d"


def test_plain_values_are_bound_without_gin(monkeypatch):
    calls = []
    monkeypatch.setattr("gin.parse_config", calls.append)
    parsed = ParsedFiles(known={(): ({}, set())})
    parsed.parse([], [])
    assert not calls and not parsed_files._bound_as_is("train.schedule = @constant_rate()")
