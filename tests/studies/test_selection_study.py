"""The selection study: its grids, and its small form run from selected stores to comparison."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_mixture_study import Bytes

from lossline import tables
from lossline.cli.configuration import build_options, run_verb
from lossline.corpora.items import Item
from lossline.corpora.selected import selections
from lossline.stores.store_writer import write_store
from lossline.stores.task_store import write_task
from lossline.studies import study
from lossline.studies.grid import unique
from lossline.studies.planned_run import PlannedRun
from lossline.studies.processes import Job
from lossline.studies.study import StudyOptions
from lossline.study import load

FOLDER = Path("gin_configs/studies")
DOMAINS = (
    "wiki", "wiki_es", "wiki_fr", "pubmed", "legal", "poetry", "python_math", "python_web",
)  # fmt: skip
HELD_OUT = ("tatoeba_es", "wiki")
TASKS = ("humaneval", "mbpp", "medmcqa", "lambada")
METHODS = {"perplexity_correlations", "dsir", "dclm", "oracle"}
TARGETS = ("code", "biomedical", "narrative", "spanish")


def options_of(name: str, *bindings: str) -> StudyOptions:
    return build_options("study", load(), gin_files=[FOLDER / name], bindings=bindings)


def planned(options: StudyOptions) -> list[PlannedRun]:
    return [study._planned(options, point) for point in unique(options.grid.points())]


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without stores."""
    (tmp_path / "gin_configs").symlink_to(repository / "gin_configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_grid_has_one_model_per_target_method_and_seed(here: Path) -> None:
    """A method without a target has one model per seed, not one per target."""
    runs = planned(options_of("selection.gin"))
    cells = Counter((run.factors["target"], run.factors["method"]) for run in runs)
    wanted = {(target, method) for target in TARGETS for method in METHODS}
    assert cells == dict.fromkeys(wanted | {("any", "uniform"), ("any", "language_filter")}, 3)
    assert {run.factors["seed"] for run in runs} == {"seed-0", "seed-1", "seed-2"}
    assert len({run.tokens for run in runs}) == 1 and len({run.flops for run in runs}) == 1
    stores = {run.name: next(a for a in run.arguments if "train.store" in a) for run in runs}
    assert stores["code-dsir-seed-1"].endswith("selection/stores/bpe2048/code-dsir/train'")
    assert stores["any-uniform-seed-0"].endswith("selection/stores/bpe2048/any-uniform/train'")


@pytest.mark.parametrize("name", ["selection.gin", "selection_small.gin"])
def test_every_run_trains_on_a_store_that_the_study_makes(here: Path, name: str) -> None:
    options = options_of(name)
    [made] = [
        command for command in options.before if command.gin_file.endswith("selected_stores.gin")
    ]
    bound = study._filled(options, made.bindings)
    prepare = import_module("lossline.prepare")
    bindings = [f"{key} = {value!r}" for key, value in bound.items()]
    job = build_options("prepare", prepare.load(), gin_files=[made.gin_file], bindings=bindings)
    [store] = job.stores
    places = {f"{job.out}/{store.vocabulary}/{source.name}/train" for source in store.sets}
    used = {
        a.split("'")[1] for run in planned(options) for a in run.arguments if "train.store" in a
    }
    assert used == places
    assert {source.folder for source in store.sets} == {
        f"{options.folder}/select/{source.name.replace('-', '/', 1)}" for source in store.sets
    }


def test_population_has_models_of_the_size_and_tokens_asked_for(here: Path) -> None:
    options = options_of("selection_population.gin")
    runs = planned(options)
    assert len(runs) >= 24 and {run.tokens for run in runs} == {runs[0].tokens}
    assert 0.29e6 < runs[0].tokens < 0.31e6
    train = import_module("lossline.train")
    model = build_options(
        "train",
        train.load(),
        gin_files=["gin_configs/runs/selection.gin"],
        bindings=["train.store = 'x'"],
    ).model
    assert 0.3e6 <= model.num_params().non_embedding <= 0.5e6
    active = Counter(
        name
        for point in options.grid.points()
        for name, share in point.bindings["mixture.shares"].items()
        if share
    )
    assert min(active.values()) >= 3


def test_selections_are_named_by_target_and_method() -> None:
    found = selections(folder="out", targets=["code"], methods=["dsir"], shared=["uniform"])
    assert [(s.name, s.folder) for s in found] == [
        ("code-dsir", "out/code/dsir"),
        ("any-uniform", "out/any/uniform"),
    ]


# --- the small form ------------------------------------------------------------------------------


def make_stores(root: Path, selected: Path) -> None:
    """Make small stores at the places where the study's own commands make them."""
    vocabulary = Bytes()
    for name in DOMAINS:
        texts = [f"{name} {number} " * 40 for number in range(20)]
        write_store(root / name / "train", texts, vocabulary, name=name)
    for name in HELD_OUT:
        texts = [f"{name} text {number}. " * 5 for number in range(2)]
        write_store(root / name / "validation", texts, vocabulary, name=name, split="validation")
    for name in TASKS:
        items = [
            Item(id=str(i), context=f"{name} {i}", choices=(" yes",), gold=0) for i in range(3)
        ]
        write_task(root / "tasks" / name, items, vocabulary, benchmark=name)
    for source in selections(
        folder="", targets=["code", "spanish"], methods=["perplexity_correlations", "dsir"],
        shared=["uniform"],
    ):  # fmt: skip
        texts = [f"{source.name} {number} " * 40 for number in range(20)]
        write_store(selected / source.name / "train", texts, vocabulary, name=source.name)


def call(job: Job) -> None:
    """Run a verb in this process."""
    verb = import_module(f"lossline.{job.verb}")
    arguments = list(job.arguments)
    if job.verb == "study":
        arguments.append("--gin.study.run_gin_file=run.gin")
    if job.verb == "evaluate":
        arguments += ["--gin.evaluate.stride=48", "--gin.evaluate.batch_size=8"]
    run_verb(job.verb, verb.__doc__, verb.load, flags=verb.FLAGS, argv=arguments)


def call_many(jobs: list[Job], **_: object) -> None:
    for job in jobs:
        call(job)


@pytest.fixture(scope="module")
def folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the finished small form. Text, stores and selections are there already."""
    folder = tmp_path_factory.mktemp("selection")
    (folder / "gin_configs").symlink_to(repository / "gin_configs")
    make_stores(
        folder / "data_selection/stores/bpe2048", folder / "runs/selection_small/stores/bpe2048"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(study, "run", call)
        patch.setattr(study, "run_many", call_many)
        patch.setattr(study, "_at_once", lambda options: 1)
        # The tests see eight devices, so a batch has at least eight rows.
        (folder / "run.gin").write_text(
            'include "runs/selection_small.gin"\ntrain.batch_size = 8\ntrain.context_length = 64\n'
        )
        options = options_of("selection_small.gin", 'study.run_gin_file = "run.gin"')
        before = [command for command in options.before if command.verb == "study"]
        study.run_study(replace(options, before=before))
    return folder / "runs/selection_small"


@pytest.mark.slow
def test_small_form_compares_the_methods_on_every_target(folder: Path) -> None:
    methods = pd.read_csv(folder / "compare/methods.csv")
    assert Counter(methods["target"]) == {"code": 3, "spanish": 3}
    assert (methods["runs"] == 2).all() and np.isfinite(methods[["mean", "low", "high"]]).all(
        axis=None
    )
    others = methods[methods["method"] != "uniform"]
    assert np.isfinite(others[["difference", "difference_low"]]).all(axis=None)
    ranks = pd.read_csv(folder / "compare/ranks.csv")
    assert ranks["average_rank"].sum() == 6.0 and (folder / "compare/report.html").exists()


@pytest.mark.slow
def test_small_form_has_the_selection_as_a_factor_of_the_lines(folder: Path) -> None:
    table = tables.read(folder / "losses.parquet")
    assert set(table["factor.method"]) == {"uniform", "dsir", "perplexity_correlations"}
    assert set(table["factor.target"]) == {"any", "code", "spanish"}
    assert (table["status"] == "ok").all() and len(table) == 10 * 2 * 6
    assert (folder / "report/report.html").exists()


@pytest.mark.slow
def test_small_form_trains_and_measures_its_population_first(folder: Path) -> None:
    table = tables.read(folder / "population/losses.parquet")
    assert table["run_id"].nunique() == 6 and set(table["eval_set"]) == {*HELD_OUT, *TASKS}
    shares = table.drop_duplicates("run_id")[[f"share.{name}" for name in DOMAINS]]
    assert np.allclose(shares.sum(axis=1), 1.0)
