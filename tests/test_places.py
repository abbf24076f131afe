"""A URL that cannot be written to is one line, and creates no folder named ``gs:``.

Results, runs, stores and studies can be at gs:// since lossline writes there; text cannot, because
its libraries know only files.
"""

import importlib
from pathlib import Path

import pytest

from lossline.cli.configuration import run_verb
from lossline.errors import UserError
from lossline.places import to_path

BUCKET, OTHER = "gs://bucket/there", "s3://bucket/there"


@pytest.mark.parametrize(
    ("name", "arguments", "option", "url"),
    [
        ("compile", ["--gin_file=experiments/compilation/llama_1b1.gin",
                     "--gin.compile.train=@train()", f"--out={OTHER}"], "compile.out", OTHER),
        ("convert", ["model", OTHER], "convert.target", OTHER),
        ("fit", ["--table=losses.parquet", f"--out={OTHER}"], "fit.out", OTHER),
        ("gather", [f"--gin.gather.root={BUCKET}"], "gather.root", BUCKET),
        ("import_sweep", ["kempner", "--path=sweep.csv", f"--out={OTHER}"], "import_sweep.out",
         OTHER),
        ("prepare", [f"--gin.prepare.root={BUCKET}",
                     "--gin_file=gin_configs/data/quickstart_stores.gin"], "prepare.root", BUCKET),
        ("prepare", [f"--gin.prepare.out={OTHER}",
                     "--gin_file=gin_configs/data/quickstart_stores.gin"], "prepare.out", OTHER),
        ("study", [f"--gin.study.root={OTHER}",
                   "--gin_file=gin_configs/studies/quickstart.gin"], "study.root", OTHER),
    ],
)  # fmt: skip
def test_url_as_output_path_is_refused(
    name, arguments, option, url, tmp_path, monkeypatch, capsys, repository
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
    why = "is a URL, but this is" if url == BUCKET else "s3:// is not supported. Use a bucket at gs"
    assert said.startswith(f"lossline {name}: error: {option} = {url}: {why}")
    assert said.count("\n") == 1
    assert {item.name for item in tmp_path.iterdir()} == {"experiments", "gin_configs"}


@pytest.mark.parametrize("place", ["gs:/bucket/runs", Path("gs://bucket/runs")])
def test_bucket_with_one_slash_is_no_local_folder(place):
    with pytest.raises(UserError, match="two slashes"):
        to_path(place)
