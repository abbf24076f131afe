"""The mixture study: its grid, and its small form run from stores to loss table."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.cli.configuration import build_options, run_verb
from lossline.corpora.items import Item
from lossline.stores.store_writer import write_store
from lossline.stores.task_store import write_task
from lossline.studies import study
from lossline.studies.grid import unique
from lossline.studies.planned_run import PlannedRun
from lossline.studies.processes import Job
from lossline.study import load
from lossline.vocabularies import ByteVocabulary, Vocabulary

TRAINED = ("wiki", "python")
DOMAINS = (*TRAINED, "pubmed", "legal", "poetry")
CHOICES = {"hellaswag": 4, "arc_easy": 4, "humaneval": 1, "mbpp": 1}
FOLDER = Path("gin_configs/studies")
# The tests see eight devices, so a batch has at least eight rows.
RUN = 'include "runs/mixture.gin"\ntrain.batch_size = 8\ntrain.context_length = 64\n'
SHORT = {"evaluate.stride": 48, "evaluate.batch_size": 8}


class Bytes(ByteVocabulary):
    """Bytes, under the name of a study's vocabulary."""

    def __init__(self, name: str = "bpe2048") -> None:
        pieces = [b""] * 3 + [bytes([value]) for value in range(256)]
        Vocabulary.__init__(
            self, name=name, kind="bytes", pieces=pieces, eos_id=1, pad_id=0, content="test"
        )


def make_stores(root: Path) -> None:
    """Make small stores at the places where the study's own commands make them."""
    vocabulary = Bytes()
    for name in TRAINED:
        texts = [f"{name} {number} " * 40 for number in range(20)]
        write_store(root / name / "train", texts, vocabulary, name=name)
    for name in DOMAINS:
        texts = [f"{name} text {number}. " * 5 for number in range(2)]
        write_store(root / name / "validation", texts, vocabulary, name=name, split="validation")
    for name, count in CHOICES.items():
        choices = tuple(f" answer {number}" for number in range(count))
        items = [Item(id=str(i), context=f"{name} {i}", choices=choices, gold=0) for i in range(3)]
        write_task(root / "tasks" / name, items, vocabulary, benchmark=name)


def call(job: Job) -> None:
    """Run a verb in this process. The stores are there already."""
    if job.verb in ("train", "evaluate", "predict"):
        verb = import_module(f"lossline.{job.verb}")
        run_verb(job.verb, verb.__doc__, verb.load, flags=verb.FLAGS, argv=list(job.arguments))


def call_many(jobs: list[Job], **_: object) -> None:
    for job in jobs:
        call(job)


@pytest.fixture(scope="module")
def folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the finished small form."""
    folder = tmp_path_factory.mktemp("mixture")
    (folder / "gin_configs").symlink_to(repository / "gin_configs")
    make_stores(folder / "data/stores/bpe2048")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(study, "run", call)
        patch.setattr(study, "run_many", call_many)
        (folder / "run.gin").write_text(RUN)
        bindings = ["study.processes = 1", 'study.run_gin_file = "run.gin"']
        files = [FOLDER / "mixture_small.gin"]
        options = build_options("study", load(), gin_files=files, bindings=bindings)
        measure = replace(options.evaluate, bindings={**options.evaluate.bindings, **SHORT})
        study.run_study(replace(options, evaluate=measure))
    return folder / "runs/mixture_small"


@pytest.fixture(scope="module")
def losses(folder: Path) -> pd.DataFrame:
    """Loss table of the small form."""
    return tables.read(folder / "losses.parquet")


@pytest.mark.slow
def test_small_form_measures_every_checkpoint_on_every_set(losses: pd.DataFrame) -> None:
    assert (losses["status"] == "ok").all() and np.isfinite(losses["loss"]).all()
    assert len(losses) == 4 * 3 * (len(DOMAINS) + len(CHOICES))
    kinds = losses.groupby("eval_set")["kind"].unique().explode().to_dict()
    assert kinds == dict.fromkeys(DOMAINS, "validation") | dict.fromkeys(CHOICES, "task")
    assert np.isfinite(losses["bits_per_byte"]).all()
    steps = losses.groupby("run_id")["step"].nunique()
    assert (steps == 3).all() and losses["flops"].min() > 0


@pytest.mark.slow
def test_the_study_ends_with_predictions(folder: Path) -> None:
    """Four runs determine no law of mixtures; the study says so and still ends with a report."""
    report = folder / "report"
    rows = pd.read_csv(report / "predictions.csv")
    assert set(rows["target"].str.rsplit("-", n=1).str[0]) == {"0.2M-code-0.3"}
    assert set(rows["task"]) == {*DOMAINS, *CHOICES}
    assert np.isfinite(rows["actual"]).all() and (report / "report.html").exists()


@pytest.mark.slow
def test_table_of_the_study_has_the_shares_and_tokens_of_every_component(
    losses: pd.DataFrame,
) -> None:
    shares = losses[["share.wiki", "share.python"]]
    assert set(map(tuple, shares.to_numpy())) == {(1.0, 0.0), (0.7, 0.3)}
    seen = losses[["component_tokens.wiki", "component_tokens.python"]]
    assert (seen.sum(axis=1) == losses["tokens"]).all()
    pure = losses["factor.code share"] == "code-0"
    assert (seen["component_tokens.python"][pure] == 0).all()
    assert set(losses["factor.size"]) == {"0.1M", "0.2M"}


@pytest.fixture(scope="module")
def runs(repository: Path) -> list[PlannedRun]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        options = build_options("study", load(), gin_files=[FOLDER / "mixture.gin"])
        return [study._planned(options, point) for point in unique(options.grid.points())]


def test_grid_has_five_sizes_at_six_code_shares(runs: list[PlannedRun]) -> None:
    assert len(runs) == 30 and 8e6 < sum(run.tokens for run in runs) < 11e6
    sizes = {run.factors["size"] for run in runs}
    assert len(sizes) == 5 and len({run.factors["code share"] for run in runs}) == 6
    compute = [run.flops for run in runs]
    assert max(compute) / min(compute) > 30
    largest = {run.factors["size"] for run in runs if run.flops == max(compute)}
    assert largest == {"1.5M"}
