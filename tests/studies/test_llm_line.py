"""The shipped grid of LLMs on the Line: its runs, their sizes and tokens, and their commands."""

import re
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import lossline.train
from lossline.cli.configuration import _parse_command_line, build_options
from lossline.errors import UserError
from lossline.files import write_json
from lossline.options.identity import fingerprint
from lossline.runs.run_directory import RunState
from lossline.stores.store_writer import write_store
from lossline.studies.grid import unique
from lossline.studies.planned_run import PlannedRun
from lossline.studies.study import StudyOptions, _planned, run_study
from lossline.study import load
from lossline.training.options import TrainOptions
from lossline.vocabularies import ByteVocabulary

STORES = tuple(f"data/stores/llama3/{name}/train" for name in ("fineweb_edu", "c4", "pile"))
FILE = "gin_configs/studies/llm_line.gin"


@pytest.fixture(scope="module")
def study(repository: Path) -> StudyOptions:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        return build_options("study", load(), gin_files=[FILE])


@pytest.fixture(scope="module")
def runs(study: StudyOptions, repository: Path) -> list[PlannedRun]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(repository)
        return [_planned(study, point) for point in unique(study.grid.points())]


def options_of(arguments: tuple[str, ...] | list[str]) -> TrainOptions:
    gin_files, bindings = _parse_command_line("train", "", {}, arguments, lossline.train.load)
    return build_options("train", lossline.train.load(), gin_files=gin_files, bindings=bindings)


def test_grid_has_the_runs_of_the_paper(runs):
    assert len(runs) == 113
    assert Counter(run.name.split("-")[0] for run in runs) == {"llama": 54, "mamba": 53, "gpt": 6}
    assert Counter(run.name.split("-")[2] for run in runs if run.name.count("-") == 2) == {
        "fineweb_edu": 20,
        "c4": 20,
        "pile": 20,
    }
    assert sum("gpt2" in run.name for run in runs) == 18
    assert sum("ctx" in run.name for run in runs) == 13
    assert sum("-lr" in run.name for run in runs) == 22


def test_every_run_trains_on_the_tokens_of_the_paper(runs):
    """8.4 billion; for the other contexts 2.1, 4.2 and 12.6 (METHODS: "keep batch and steps")."""
    shares = {"ctx512": 0.25, "ctx1024": 0.5, "ctx3072": 1.5}
    for run in runs:
        share = next((s for context, s in shares.items() if context in run.name), 1.0)
        assert run.tokens == pytest.approx(8.4e9 * share, rel=2e-3), run.name


def test_sizes_contexts_and_checkpoints_match_the_names(runs, repository, monkeypatch):
    monkeypatch.chdir(repository)
    seen = set()
    for run in runs:
        family = run.name.rsplit("-fineweb_edu")[0]
        if "-fineweb_edu" not in run.name or family in seen:
            continue
        seen.add(family)
        options = options_of(run.arguments)
        named = float(re.search(r"-(\d+)M", run.name)[1]) * 1e6
        # The paper's names of the Mambas contain rounded sizes.
        assert options.model.num_params().total == pytest.approx(named, rel=0.02), run.name
        context = re.search(r"ctx(\d+)", run.name)
        assert options.length == (int(context[1]) if context else 2048)
        kept = options.checkpoints.kept_steps(options.total_steps)
        assert len(kept) == 17, run.name
        warmup = round(options.schedule.warmup * options.total_steps)
        assert warmup == pytest.approx(1000 if "gpt-" in family else 5000, abs=3), run.name
    assert len(seen) == 31


@pytest.fixture
def few(study, repository, tmp_path, monkeypatch) -> StudyOptions:
    """The six GPT runs, in a working folder without stores."""
    (tmp_path / "gin_configs").symlink_to(repository / "gin_configs")
    monkeypatch.chdir(tmp_path)
    return replace(study, root=str(tmp_path), grid=study.grid.parts[2], commands=True)


def prepared(*places: str) -> None:
    """Write small stores at these locations."""
    for text, place in enumerate(places):
        write_store(Path(place), [f"text {text}"], ByteVocabulary(), name=Path(place).parent.name)


def test_commands_are_printed_for_unfinished_runs(few, capsys):
    prepared(*STORES)
    planned = [_planned(few, point) for point in few.grid.points()]
    done = planned[1].folder
    done.mkdir(parents=True)
    write_json(done / "config.json", {})
    write_json(done / "status.json", {"state": RunState.FINISHED.value, "step": 9, "message": ""})
    run_study(few)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(planned) - 1 == 5 and not any(run.missing for run in planned)
    for line, run in zip(lines, [planned[0], *planned[2:]], strict=True):
        words = shlex.split(line)
        assert words[:3] == ["python", "-m", "lossline.train"]
        options = options_of(words[3:])
        assert (options.folder, fingerprint(options)) == (run.folder, run.fingerprint)


def test_missing_stores_are_reported_with_the_command_that_makes_them(few, capsys):
    """Only commands of runs whose stores exist are printed."""
    prepared(*STORES[:2])
    with pytest.raises(UserError, match="no command for 2 of 6 runs") as refused:
        run_study(few)
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert f"{STORES[2]}: no such store" in str(refused.value)
    assert "give another path" not in str(refused.value)
    first = "python -m lossline.prepare --gin_file=gin_configs/data/llm_line_stores.gin"
    assert str(refused.value).endswith(first)


def test_dry_run_without_stores_prints_names_without_hashes(few, capsys):
    prepared(*STORES[:2])
    run_study(replace(few, commands=False, dry_run=True))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train ")]
    assert len(lines) == 6
    names = [line.split()[1] for line in lines]
    assert sum(name.endswith("-?") for name in names) == 2
    assert sum(bool(re.search("-[0-9a-f]{8}$", name)) for name in names) == 4
    run_study(replace(few, commands=False, dry_run=True))
    said = capsys.readouterr().out
    assert f"{STORES[2]}: no such store" in said and "has no hash yet" in said


def test_batches_divide_over_four_devices_and_microbatches(runs, repository, monkeypatch):
    monkeypatch.chdir(repository)
    for run in runs:
        options = options_of(run.arguments)
        assert options.batch_size % (4 * options.microbatches) == 0, run.name
