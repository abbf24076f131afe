"""The shipped setting of perplexity correlations: models, runs, hyperparameters and commands."""

from __future__ import annotations

import ast
import csv
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from test_flp_grids import options_of, planned, study_of

import lossline.score
from lossline.cli.configuration import build_options
from lossline.stores.store_writer import write_store
from lossline.studies.study import run_study
from lossline.vocabularies import ByteVocabulary

NAME = "perplexity_correlations"
TARGETS = [f"lambada_{language}" for language in ("en", "it", "fr", "de", "es")]
TARGETS += ["arc_easy", "piqa", "sciq"]
SHARED = ["uniform", "language_filter", "dclm"]


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gin_configs").symlink_to(repository / "gin_configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_target_has_its_own_selections_and_shares_the_others(here: Path) -> None:
    cells = Counter(
        (run.factors["target"], run.factors["method"]) for run in planned(study_of(NAME))
    )
    own = [(target, method) for target in TARGETS for method in (NAME, "dsir")]
    assert cells == dict.fromkeys([*own, *(("any", method) for method in SHARED)], 1)


def test_hyperparameters_are_those_of_the_paper(here: Path) -> None:
    run = planned(study_of(NAME))[0]
    options = options_of(run.arguments)
    optimizer, schedule = options.optimizer, options.schedule
    assert (options.batch_size, options.length, options.total_steps) == (512, 2048, 3052)
    assert 3.2e9 <= run.tokens < 3.2e9 + 512 * 2048
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm) == (5e-3, 0.1, 1)
    assert (optimizer.b1, optimizer.b2, optimizer.eps) == (0.9, 0.95, 1e-8)
    assert (type(schedule).__name__, schedule.warmup) == ("CosineSchedule", 0.1)
    assert options.model.num_params().total == 162_322_944
    assert options.batch_size % (8 * options.microbatches) == 0


def test_commands_of_all_runs_are_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = planned(study_of(NAME))
    for run in runs:
        folder = Path(options_of(run.arguments).store)
        write_store(folder, [f"text of {run.name}"], ByteVocabulary(), name=run.name)
    run_study(replace(study_of(NAME), commands=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(runs) == 19
    assert all(shlex.split(line)[:3] == ["python", "-m", "lossline.train"] for line in lines)


def test_the_public_models_are_those_of_the_published_table(
    here: Path, published_data: Path
) -> None:
    with (published_data / "perplexity_correlations_bpb.csv").open(newline="") as file:
        columns = [ast.literal_eval(name) for name in next(csv.reader(file))[1:]]
    options = build_options(
        "score", lossline.score.load(), gin_files=[f"gin_configs/evaluation/{NAME}_score.gin"]
    )
    assert len(columns) == 90
    named = [place.removeprefix("runs/public/") for place in options.runs]
    assert set(named) == {name for _, name in columns} and len(named) == len(set(named)) == 89
    assert options.pool.scored_pages == 25
