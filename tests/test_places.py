"""A URL as output path is one line, and creates no folder named ``gs:``."""

import importlib

import pytest

from lossline.cli.configuration import run_verb

BUCKET = "gs://bucket/there"


@pytest.mark.parametrize(
    ("name", "arguments", "option"),
    [
        ("compile", ["--gin_file=experiments/compilation/llama_1b1.gin",
                     "--gin.compile.train=@train()", f"--out={BUCKET}"], "compile.out"),
        ("convert", ["model", BUCKET], "convert.target"),
        ("fit", ["--table=losses.parquet", f"--out={BUCKET}"], "fit.out"),
        ("gather", [f"--gin.gather.root={BUCKET}"], "gather.root"),
        ("import_sweep", ["kempner", "--path=sweep.csv", f"--out={BUCKET}"], "import_sweep.out"),
        ("prepare", [f"--gin.prepare.root={BUCKET}",
                     "--gin_file=gin_configs/data/quickstart_stores.gin"], "prepare.root"),
        ("study", [f"--gin.study.root={BUCKET}",
                   "--gin_file=gin_configs/studies/quickstart.gin"], "study.root"),
    ],
)  # fmt: skip
def test_url_as_output_path_is_refused(
    name, arguments, option, tmp_path, monkeypatch, capsys, repository
):
    monkeypatch.chdir(tmp_path)
    for folder in ("experiments", "gin_configs"):
        (tmp_path / folder).symlink_to(repository / folder)
    verb = importlib.import_module(f"lossline.{name}")
    with pytest.raises(SystemExit) as stop:
        flags = getattr(verb, "FLAGS", {})
        run_verb(name, verb.__doc__, verb.load, flags=flags, argv=arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lossline {name}: error: {option} = {BUCKET}: is a URL, but results")
    assert said.count("\n") == 1
    assert {item.name for item in tmp_path.iterdir()} == {"experiments", "gin_configs"}
