"""The grid that next_runs prints: a study accepts it, and its runs are those of the plan."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lossline import tables
from lossline.cli.configuration import build_options
from lossline.design import Candidate
from lossline.errors import UserError
from lossline.next_studies.next_grid import grid_of
from lossline.studies.grid import Listed, unique
from lossline.studies.planned_run import run_options
from lossline.studies.study import sources
from lossline.study import load
from lossline.training.options import TrainOptions

REPOSITORY = Path(__file__).resolve().parents[2]
STUDY = "gin_configs/studies/quickstart.gin"
# Sizes of the quickstart's models, as ``num_params`` counts them.
SIZES = {"llama-s": 1119264, "llama-m": 1840256, "mamba-s": 1118304, "mamba-m": 1864960}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def table() -> pd.DataFrame:
    rows = [
        {
            "run_id": f"{model}-{data}-0123456789", "architecture": model[:5],
            "pretraining_data": data, "params": params, "step": 220, "tokens": 225_280,
            "flops": 1e12, "eval_set": "legal", "kind": "validation", "loss": 3.0,
        }
        for model, params in SIZES.items()
        for data in ("wiki", "python")
    ]  # fmt: skip
    return tables.from_rows(rows)


def candidate(params: float, tokens: float, **facts: str) -> Candidate:
    return Candidate(params=params, tokens=tokens, flops=6 * params * tokens, facts=facts)


def planned(text: str, folder: Path) -> dict[str, TrainOptions]:
    """The resolved options of every run of a study, by name."""
    file = folder / "grid.gin"
    file.write_text(text, encoding="utf-8")
    study = build_options("study", load(), gin_files=[file])
    return {
        point.name: run_options(*sources(study, point)) for point in unique(study.grid.points())
    }


def test_a_study_goes_on_with_the_picks(table: pd.DataFrame, tmp_path: Path) -> None:
    picks = [
        candidate(1.84e6, 2e6, architecture="llama", pretraining_data="python"),
        candidate(7.4e6, 225_000, architecture="mamba", pretraining_data="wiki"),
    ]
    found = grid_of(load, STUDY, table, picks)
    runs = planned(found.text, tmp_path)
    assert len(runs) == 23 and "mamba-s-wiki-constant" in runs
    longer, larger = runs["llama-m-python-2M"], runs["mamba-m-N7.4M-wiki"]
    assert longer.total_tokens == pytest.approx(2e6, rel=0.01)
    assert longer.model.num_params().total == SIZES["llama-m"]
    assert longer.store == "data/stores/bpe4096/python/train"
    assert larger.model.family == "mamba" and larger.store.endswith("wiki/train")
    assert larger.model.num_params().total == pytest.approx(7.4e6, rel=0.05)
    assert larger.total_tokens == runs["mamba-m-wiki"].total_tokens
    assert any("mamba of" in note and "learning rate" in note for note in found.notes)


def test_a_run_that_exists_becomes_a_replicate(table: pd.DataFrame, tmp_path: Path) -> None:
    pick = candidate(1.84e6, 225_000, architecture="llama", pretraining_data="wiki")
    runs = planned(grid_of(load, STUDY, table, [pick, pick]).text, tmp_path)
    assert [runs[f"llama-m-wiki-seed-{seed}"].seed for seed in (1, 2)] == [1, 2]
    assert runs["llama-m-wiki"].seed == 0


def test_a_continued_study_can_go_on_again(table: pd.DataFrame, tmp_path: Path) -> None:
    pick = candidate(1.84e6, 2e6, architecture="llama", pretraining_data="python")
    (tmp_path / "first.gin").write_text(grid_of(load, STUDY, table, [pick]).text)
    more = candidate(1.84e6, 4e6, architecture="llama", pretraining_data="python")
    text = grid_of(load, str(tmp_path / "first.gin"), table, [more]).text
    assert set(planned(text, tmp_path)) >= {"llama-m-python-2M", "llama-m-python-4M"}


def test_steps_of_the_base_run_give_way_to_tokens(table: pd.DataFrame, tmp_path: Path) -> None:
    steps = tmp_path / "steps.gin"
    steps.write_text(f'include "{STUDY}"\nstudy.run_gin_file = "{tmp_path}/run.gin"\n')
    run = 'include "gin_configs/runs/quickstart.gin"\ntrain.tokens = None\ntrain.steps = 240\n'
    (tmp_path / "run.gin").write_text(run)
    pick = candidate(1.84e6, 2e6, architecture="llama", pretraining_data="python")
    runs = planned(grid_of(load, str(steps), table, [pick]).text, tmp_path)
    assert runs["llama-m-python-2M"].total_tokens == pytest.approx(2e6, rel=0.01)


def test_a_run_that_does_not_resolve_is_noted(table: pd.DataFrame) -> None:
    """Eight checkpoints from step 25 on need more than 24 steps."""
    pick = candidate(1.84e6, 20_000, architecture="llama", pretraining_data="python")
    notes = grid_of(load, STUDY, table, [pick]).notes
    assert any(note.startswith("Edit the run llama-m-python-20k") for note in notes)


def test_a_study_of_other_runs_is_refused(table: pd.DataFrame) -> None:
    pick = candidate(1.84e6, 2e6)
    with pytest.raises(UserError, match="no run of the table is in the grid"):
        grid_of(load, "gin_configs/studies/mixture_small.gin", table, [pick])
    with pytest.raises(UserError, match="no run of the table has pretraining_data prose"):
        grid_of(load, STUDY, table, [candidate(1e6, 1e6, pretraining_data="prose")])


def test_an_imported_table_gives_a_study_to_fill_in(tmp_path: Path) -> None:
    """Unfilled, study names a missing part; filled in, it has the runs of the plan."""
    facts = {"architecture": "llama", "pretraining_data": "wiki"}
    picks = [candidate(1.84e6, 2e6, **facts), candidate(1.84e6, 2e6, **facts)]
    text = grid_of(load, "", pd.DataFrame(), picks).text
    with pytest.raises(UserError, match=r"missing binding: \w+ refers to %\w+") as refused:
        planned(text, tmp_path)
    assert "\n" not in str(refused.value)
    values = {
        "RUN": "gin_configs/runs/quickstart.gin",
        "EVALUATE": "gin_configs/evaluation/quickstart.gin",
        "MODEL_LLAMA_1_84M": "gin_configs/models/quickstart_llama.gin",
        "STORE_WIKI": "data/stores/bpe4096/wiki/train",
    }
    lines = text.splitlines()
    for number, line in enumerate(lines):
        name = line.removeprefix("# ").split(" ")[0]
        if line.startswith("# ") and name in values:
            lines[number] = f'{name} = "{values.pop(name)}"'
    assert not values, "every part is in the text"
    runs = planned("\n".join(lines), tmp_path)
    assert set(runs) == {"1.84M-2M-llama-wiki", "1.84M-2M-llama-wiki-seed-1"}
    assert all(run.total_tokens == pytest.approx(2e6, rel=0.01) for run in runs.values())
    assert [run.seed for run in runs.values()] == [0, 1]


def test_shares_of_a_mixture_are_bound(tmp_path: Path) -> None:
    pick = candidate(1.84e6, 2e6, **{"share.wiki": "0.7", "share.python": "0.3"})
    text = grid_of(load, "", pd.DataFrame(), [pick]).text
    stores = {name: f"data/stores/bpe4096/{name}/train" for name in ("wiki", "python")}
    parts = [
        'RUN = "gin_configs/runs/quickstart.gin"',
        'EVALUATE = "gin_configs/evaluation/quickstart.gin"',
        'MODEL_1_84M = "gin_configs/models/quickstart_llama.gin"',
        f"COMPONENTS = {stores}",
    ]
    [run] = planned("\n".join([*parts, text]), tmp_path).values()
    assert dict(run.store.shares) == {"wiki": 0.7, "python": 0.3}


def test_listed_runs_name_their_levels() -> None:
    with pytest.raises(UserError, match=r"listed\.runs\[0\] has no 'levels'"):
        Listed(runs=[{"train.tokens": 1}])
    with pytest.raises(UserError, match=r"listed\.runs is empty"):
        Listed(runs=[])
