"""The shipped settings of Rho-1: model, tokens, rates, references, mixture and commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_flp_grids import options_of, planned, study_of
from test_token_selection_study import form_of

from lossline.cli.configuration import _parse_command_line, build_options
from lossline.errors import UserError
from lossline.studies import study
from lossline.training.options import TrainOptions

COMPONENTS = {"slimpajama", "starcoder", "openwebmath"}


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "gin_configs").symlink_to(repository / "gin_configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def runs_of(name: str) -> dict[str, TrainOptions]:
    return {run.name: options_of(run.arguments) for run in planned(study_of(name))}


def before(name: str) -> list:
    options = study_of(name)
    made = []
    for command in options.before:
        verb, _, loader, flags, arguments = form_of(study._job(options, command))
        files, bindings = _parse_command_line(verb, "", flags, arguments, loader)
        made.append(build_options(verb, loader(), gin_files=files, bindings=bindings))
    return made


@pytest.mark.parametrize(
    ("name", "tokens", "rate"), [("rho_math_1b", 14e9, 8e-5), ("rho_general", 80e9, 1e-4)]
)
def test_tokens_batches_and_rates_are_those_of_the_paper(here, name, tokens, rate) -> None:
    runs = runs_of(name)
    assert list(runs) == ["plain", "excess-60"]
    for options in runs.values():
        assert options.model.num_params().total == 1_100_048_384
        assert (options.length, options.tokens_per_step) == (2048, 1_048_576)
        assert 0 <= options.total_tokens - tokens < options.tokens_per_step
        assert options.optimizer.learning_rate == rate
        assert type(options.schedule).__name__ == "CosineSchedule"
        assert options.start.run == "runs/public/tinyllama"
    chosen = runs["excess-60"].objective
    assert (chosen.share, chosen.score.value, chosen.selects_in) == (0.6, "excess_loss", "batch")
    assert runs["plain"].objective is None


@pytest.mark.parametrize(("name", "tokens"), [("rho_math_1b", 0.5e9), ("rho_general", 1.9e9)])
def test_the_reference_is_the_base_model_tuned_for_three_epochs(here, name, tokens) -> None:
    reference = before(name)[0]
    assert reference.start == runs_of(name)["plain"].start
    assert 0 <= reference.total_tokens - 3 * tokens < reference.tokens_per_step
    assert reference.optimizer.learning_rate == 5e-5
    assert reference.directory == f"runs/{name}/reference"


def test_mathematics_is_scored_once(here) -> None:
    reference, scores = before("rho_math_1b")
    run = runs_of("rho_math_1b")["excess-60"]
    assert (scores.run, scores.stores) == (reference.directory, (run.store,))
    assert scores.out == run.objective.scores


def test_general_text_has_three_components_with_scores_each(here) -> None:
    reference, *scores = before("rho_general")
    run = runs_of("rho_general")["excess-60"]
    assert run.store.whole_shares == {"openwebmath": 1, "slimpajama": 6, "starcoder": 3}
    assert set(run.objective.scores) == set(run.store.components) == COMPONENTS
    made = {item.out: item.stores for item in scores}
    for name, place in run.objective.scores.items():
        assert made[place] == (run.store.components[name],)
    assert {item.run for item in scores} == {reference.directory}


@pytest.mark.parametrize("name", ["rho_math_1b", "rho_general"])
def test_commands_name_what_to_run_first(here, name) -> None:
    first = r"no command for 2 of 2 runs.*lossline\.train.*lossline\.score --gin_file=\S+ --tokens"
    with pytest.raises(UserError, match=first) as refused:
        study.run_study(replace(study_of(name), commands=True))
    assert len(str(refused.value).splitlines()) == 1
