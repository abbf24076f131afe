"""The verb select: its folder, its summary, and what it refuses."""

import json
import os
from pathlib import Path

import pandas as pd
import planted_pool
import pytest

from lossline import select
from lossline.cli.configuration import run_verb
from lossline.corpora import sources
from lossline.corpora.pools import Pool
from lossline.corpora.selected import Selected
from lossline.tables import scores

GIN = """
select.pool = @pool()
pool.domains = ("code", "verse", "law", "news")
select.targets = (@target(),)
target.name = "quiz"
target.benchmarks = ("quiz",)
target.texts = ("quiz",)
target.domains = ("code",)
select.methods = {
    "uniform": @uniform(), "dsir": @dsir(), "oracle": @oracle(),
    "correlations": @perplexity_correlations()}
perplexity_correlations.filter_ratio = 0.3
select.budget = 5000
select.train_tokens = 20000
select.vocabulary = "bytes"
select.resamples = 30
"""


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planted_pool.write_pool(Path("data"))
    pool = Pool(domains=tuple(planted_pool.WORDS))
    scores.write(planted_pool.planted_scores(pool=pool.fingerprint()), "scores.parquet")
    Path("select.gin").write_text(GIN)
    return tmp_path


def run(*arguments):
    argv = ["--gin_file=select.gin", "--scores", "scores.parquet", "--out", "out", *arguments]
    run_verb("select", select.__doc__, select.load, flags=select.FLAGS, argv=argv)


def test_the_folder_has_everything_and_a_second_run_does_nothing(world, capsys):
    run()
    printed = capsys.readouterr().out
    assert "quiz, correlations: includes code" in printed
    assert "any/uniform" in printed and "epochs" in printed
    out = Path("out")
    for name in (
        "summary.txt", "report.html", "coefficients.csv", "coefficients.parquet", "heldout.csv",
        "overlap.csv", "composition.csv", "domains.csv", "settings.json", "select.json",
        "figures/coefficients.png", "figures/composition-quiz.png",
        "quiz/correlations/classifier.npz",
    ):  # fmt: skip
        assert (out / name).is_file(), name
    assert (out / "summary.txt").read_text().strip() in printed
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    run()
    assert "out is up to date" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}


def test_the_manifest_names_pool_scores_benchmarks_estimator_and_budget(world):
    run("--gin.select.report=False")
    manifest = json.loads(Path("out/quiz/correlations/manifest.json").read_text())
    assert manifest["pool"]["fingerprint"] == Pool(domains=tuple(planted_pool.WORDS)).fingerprint()
    assert len(manifest["scores"]) == 64 and manifest["benchmarks"] == ["quiz"]
    assert manifest["options"]["estimator"] == "spearmanr"
    assert manifest["budget"] == 5000 and manifest["seed"] == 0
    assert manifest["epochs"] == pytest.approx(20000 / manifest["tokens"])
    assert sum(manifest["weights"].values()) == pytest.approx(1, abs=1e-12)
    assert 0.5 < manifest["facts"]["held_out"]["auc"] <= 1
    index = pd.read_parquet("out/quiz/correlations/pages.parquet")
    assert list(index["rank"]) == list(range(len(index)))
    assert index["tokens"].sum() == manifest["tokens"] and len(index) == manifest["pages"]


def test_prepare_reads_the_selected_pages(world):
    run("--gin.select.report=False")
    source = Selected(name="quiz-dsir", folder="out/quiz/dsir")
    texts = list(sources.documents(source, "train"))
    assert len(texts) == source.manifest["pages"] and all("code" in text for text in texts)


def test_other_inputs_need_replace(world, capsys):
    run("--gin.select.report=False")
    Path("out/mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        run("--gin.select.report=False", "--gin.select.budget=6000")
    assert "contains the results of other inputs" in capsys.readouterr().err
    run("--gin.select.report=False", "--gin.select.budget=6000", "--replace")
    assert json.loads(Path("out/any/uniform/manifest.json").read_text())["budget"] == 6000
    assert Path("out/mine.txt").read_text() == "mine"


def test_a_changed_pool_is_refused_and_nothing_is_written(world, capsys):
    file = Path("data/text/code/train.jsonl")
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(SystemExit, match="2"):
        run()
    error = capsys.readouterr().err
    assert "measured on pool" in error and error.count("\n") == 1
    assert not Path("out").exists() and not list(Path().glob(".out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin.select.scores=()"], "need the losses of many models"),
        (["--gin.select.vocabulary=''"], "missing binding: select.vocabulary"),
        (["--gin.select.vocabulary='none'"], "vocabulary 'none'"),
        (["--gin.select.budget=99999999"], "have only"),
        (["--gin.target.benchmarks=('no_such',)"], "no_such"),
        (["--gin.perplexity_correlations.estimator='pearson'"], "pearson"),
        (["--gin.perplexity_correlations.filter_ratio=0"], "filter_ratio = 0"),
        (["--gin.oracle.domains=('elsewhere',)"], "elsewhere"),
        (["--gin.pool.domains=('code', 'none')"], "not gathered"),
    ],
)
def test_user_errors_are_one_line(world, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("lossline select: error: ") and message in error[-1]
    assert not Path("out").exists()


def test_coefficients_alone_need_no_pool(world, capsys):
    argv = ["--scores", "scores.parquet", "--out", "alone", "--gin.select.resamples=20"]
    run_verb("select", select.__doc__, select.load, flags=select.FLAGS, argv=argv)
    assert "quiz, perplexity_correlations: includes" in capsys.readouterr().out
    rows = pd.read_csv("alone/coefficients.csv")
    assert set(rows["domain"]) == set(planted_pool.WORDS)
    assert os.path.exists("alone/report.html")


@pytest.mark.parametrize("changed", ["positives.jsonl", "data/benchmarks/quiz/items.jsonl"])
def test_changed_positives_or_questions_are_other_inputs(world, capsys, changed):
    lines = [json.dumps({"text": planted_pool.page_text("law", n)}) for n in range(2000, 2030)]
    Path("positives.jsonl").write_text("\n".join(lines) + "\n")
    arguments = (
        "--gin.select.report=False", "--gin.target.texts=()",
        "--gin.select.methods={'dclm': @positive_classifier(), 'pc': @perplexity_correlations()}",
        "--gin.positive_classifier.files=('positives.jsonl',)",
    )  # fmt: skip
    run(*arguments)
    file = Path(changed)
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert "contains the results of other inputs" in capsys.readouterr().err


def test_the_report_states_lengths_and_every_method_of_coefficients(world):
    methods = "{'one': @perplexity_correlations(), 'two': @perplexity_correlations()}"
    run(f"--gin.select.methods={methods}")
    page = Path("out/report.html").read_text()
    rows = pd.read_csv("out/composition.csv")
    longest = rows[(rows["part"] == "length") & (rows["method"] == "pool")]["bytes"].max()
    assert "By length (bytes of a page)" in page and f">{longest:.0f}<" in page
    drawn = Path("out/figures/coefficients.svg").read_text()
    assert "quiz, one" in drawn and "quiz, two" in drawn
