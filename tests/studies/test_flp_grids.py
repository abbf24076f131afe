"""The shipped grids of FLP and FLP-M: their runs, tokens and checkpoints, and their commands."""

from __future__ import annotations

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import lossline.train
from lossline.cli.configuration import _parse_command_line, build_options
from lossline.stores.store_writer import write_store
from lossline.studies.grid import unique
from lossline.studies.planned_run import PlannedRun
from lossline.studies.study import StudyOptions, _planned, run_study
from lossline.study import load
from lossline.training.options import TrainOptions
from lossline.vocabularies import ByteVocabulary

# Table 1 of the paper: batch, tokens and peak learning rate of each size.
TABLE_1 = {
    "43M": (448, 8.02e9, 0.0052),
    "64M": (544, 1.171e10, 0.0042),
    "89M": (576, 1.618e10, 0.0038),
    "120M": (640, 2.180e10, 0.0040),
    "150M": (672, 2.885e10, 0.0042),
    "200M": (736, 3.721e10, 0.0036),
    "250M": (768, 4.756e10, 0.0034),
    "320M": (800, 5.967e10, 0.0028),
    "500M": (960, 9.050e10, 0.0023),
    "720M": (1024, 1.320e11, 0.0019),
    "1B": (1152, 1.855e11, 0.0016),
    "3B": (1536, 5.568e11, 0.0004),
    "7B": (2048, 1.258e12, 0.0003),
    "13B": (2048, 1.258e12, 0.0003),
}


def study_of(name: str) -> StudyOptions:
    return build_options("study", load(), gin_files=[f"gin_configs/studies/{name}.gin"])


def planned(study: StudyOptions) -> list[PlannedRun]:
    return [_planned(study, point) for point in unique(study.grid.points())]


def options_of(arguments: tuple[str, ...] | list[str]) -> TrainOptions:
    gin_files, bindings = _parse_command_line("train", "", {}, arguments, lossline.train.load)
    return build_options("train", lossline.train.load(), gin_files=gin_files, bindings=bindings)


@pytest.fixture(scope="module")
def runs(repository: Path) -> dict[str, list[tuple[PlannedRun, TrainOptions]]]:
    """Every run of both studies with its options."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        return {
            name: [(run, options_of(run.arguments)) for run in planned(study_of(name))]
            for name in ("flp", "flp_m")
        }


def test_flp_has_one_run_of_every_size(runs):
    assert [run.name for run, _ in runs["flp"]] == list(TABLE_1)


def test_flp_m_has_the_mixtures_of_the_paper(runs):
    """Six sizes at six code shares; 3B at all of them (0.3 is fitted), 7B at 0.3 only."""
    found = Counter(run.factors["size"] for run, _ in runs["flp_m"])
    assert found == dict.fromkeys(["120M", "200M", "320M", "500M", "720M", "1B", "3B"], 6) | {
        "7B": 1
    }
    for run, options in runs["flp_m"]:
        share = float(run.factors["code share"].removeprefix("code-"))
        assert options.store.shares == pytest.approx({"dclm": 1 - share, "stack": share})
    assert [run.name for run, _ in runs["flp_m"] if run.name.startswith("7B")] == ["7B-code-0.3"]


@pytest.mark.parametrize("study", ["flp", "flp_m"])
def test_batches_tokens_and_rates_are_those_of_table_1(runs, study):
    """The last step may train on more tokens than the table says, by less than one batch."""
    for run, options in runs[study]:
        batch, tokens, rate = TABLE_1[run.factors["size"]]
        assert (options.batch_size, options.optimizer.learning_rate) == (batch, rate), run.name
        assert 0 <= run.tokens - tokens < batch * 2048, run.name


@pytest.mark.parametrize("study", ["flp", "flp_m"])
def test_batches_divide_over_eight_devices_and_microbatches(runs, study):
    for run, options in runs[study]:
        assert options.batch_size % (8 * options.microbatches) == 0, run.name


@pytest.mark.parametrize("study", ["flp", "flp_m"])
def test_a_checkpoint_is_kept_after_every_thirtieth_of_the_training(runs, study):
    for run, options in runs[study]:
        kept = options.checkpoints.kept_steps(options.total_steps)
        expected = [options.total_steps * number / 30 for number in range(1, 31)]
        assert list(kept) == pytest.approx(expected, abs=1), run.name


@pytest.mark.parametrize(
    ("name", "stores", "count"), [("flp", ("redpajama",), 14), ("flp_m", ("dclm", "stack"), 43)]
)
def test_commands_of_all_runs_are_printed(
    repository, tmp_path, monkeypatch, capsys, name, stores, count
):
    (tmp_path / "gin_configs").symlink_to(repository / "gin_configs")
    monkeypatch.chdir(tmp_path)
    for store in stores:
        folder = Path("data/stores/gpt_neox") / store / "train"
        write_store(folder, [f"text of {store}"], ByteVocabulary(), name=store)
    run_study(replace(study_of(name), commands=True))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == count
    assert all(shlex.split(line)[:3] == ["python", "-m", "lossline.train"] for line in lines)
