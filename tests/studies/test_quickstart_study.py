"""The quickstart study: its pages say how many runs it has, and its evaluation resolves."""

import re
from pathlib import Path

import pytest

from lossline import evaluate, study
from lossline.cli.configuration import build_options
from lossline.evaluation.evaluator import AccuracyAt
from lossline.studies.grid import unique

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def quickstart():
    file = REPOSITORY / "gin_configs" / "studies" / "quickstart.gin"
    return build_options("study", study.load(), gin_files=[file])


@pytest.mark.parametrize(
    ("page", "counted"),
    [
        ("docs/quickstart.md", r"That is (\d+) runs"),
        ("docs/quickstart.md", r"train (\d+) runs"),
        ("docs/guides/own_study.md", r"`quickstart.gin` \| (\d+):"),
        ("experiments/quickstart/README.md", r"(\d+) trainings of 225,000 tokens"),
    ],
)
def test_pages_say_how_many_runs_there_are(quickstart, page, counted):
    runs = len(unique(quickstart.grid.points()))
    said = re.findall(counted, (REPOSITORY / page).read_text(encoding="utf-8"))
    assert said == [str(runs)]


def test_evaluation_takes_the_bindings_of_the_study(quickstart):
    command = quickstart.evaluate
    bindings = [f"{name} = {value!r}" for name, value in command.bindings.items()]
    built = build_options(
        "evaluate",
        evaluate.load(),
        gin_files=[REPOSITORY / command.gin_file],
        bindings=[*bindings, "evaluate.runs = ['runs']"],
    )
    assert (built.batch_size, built.accuracy) == (4, AccuracyAt.NONE)
