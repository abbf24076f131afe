"""The token-selection study: its arms and budgets, and its small form from base model to report."""

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
from lossline.cli.configuration import _parse_command_line, build_options, run_verb
from lossline.corpora.items import Item
from lossline.stores.store_writer import write_store
from lossline.stores.task_store import write_task
from lossline.studies import study
from lossline.studies.grid import unique
from lossline.studies.planned_run import PlannedRun
from lossline.studies.processes import Job
from lossline.studies.study import Command, StudyOptions
from lossline.study import load

FOLDER = Path("gin_configs/studies")
NOISY = "data/stores/bpe2048_web/noisy/train"
SETS = {"pubmed", "medmcqa", "wiki"}


def options_of(name: str, *bindings: str) -> StudyOptions:
    return build_options("study", load(), gin_files=[FOLDER / name], bindings=bindings)


def planned(options: StudyOptions) -> list[PlannedRun]:
    return [study._planned(options, point) for point in unique(options.grid.points())]


def form_of(job: Job) -> tuple:
    """Return gin name, description, loader, flags and arguments of a job."""
    verb = import_module(f"lossline.{job.verb}")
    if hasattr(verb, "form"):  # a switch makes another verb of it
        return job.verb, *verb.form(list(job.arguments))
    return job.verb, verb.__doc__, verb.load, getattr(verb, "FLAGS", {}), list(job.arguments)


@pytest.fixture
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without stores."""
    (tmp_path / "gin_configs").symlink_to(repository / "gin_configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(options: StudyOptions, run: PlannedRun):
    """Return the options of a run's training."""
    files = [a.removeprefix("--gin_file=") for a in run.arguments if a.startswith("--gin_file")]
    lines = [a.removeprefix("--gin.") for a in run.arguments if a.startswith("--gin.")]
    bindings = [" = ".join(line.split("=", 1)) for line in lines]
    return build_options(
        "train", import_module("lossline.train").load(), gin_files=files, bindings=bindings
    )


@pytest.fixture
def arms(here: Path) -> dict[str, object]:
    options = options_of("token_selection.gin")
    found = {run.name: trained(options, run) for run in planned(options)}
    assert len(found) == 24
    return {name.removesuffix("-seed-0"): o for name, o in found.items() if "seed-0" in name}


def test_every_arm_has_three_seeds_and_starts_from_the_base_model(here: Path) -> None:
    options = options_of("token_selection.gin")
    runs = planned(options)
    assert Counter(run.factors["arm"] for run in runs) == dict.fromkeys(
        ["plain", "excess-40", "excess-60", "excess-80", "random-60", "self-loss-60",
         "self-entropy-60", "self-both-60"], 3,
    )  # fmt: skip
    every = [trained(options, run) for run in runs]
    assert {o.start.run for o in every} == {"runs/token_selection/base"}
    assert Counter(o.seed for o in every) == {0: 8, 1: 8, 2: 8}
    assert {(o.store, o.batch_size, o.length) for o in every} == {(NOISY, 8, 256)}
    assert all(run.missing for run in runs) and all(str(run.folder).endswith("-?") for run in runs)


def test_arms_select_what_their_names_say(arms) -> None:
    chosen = {
        name: o.objective and (o.objective.score.value, o.objective.share, o.objective.scores)
        for name, o in arms.items()
    }
    reference, own = (f"runs/token_selection/scores/{n}" for n in ("reference", "self_reference"))
    assert chosen == {
        "plain": None,
        "excess-40": ("excess_loss", 0.4, reference),
        "excess-60": ("excess_loss", 0.6, reference),
        "excess-80": ("excess_loss", 0.8, reference),
        "random-60": ("random", 0.6, None),
        "self-loss-60": ("reference_loss", 0.6, own),
        "self-entropy-60": ("reference_entropy", 0.6, own),
        "self-both-60": ("intersection", 0.6, own),
    }


def test_every_arm_has_a_checkpoint_at_equal_tokens_of_at_least_100_steps(arms) -> None:
    compare = build_options(
        "compare", import_module("lossline.compare").load(),
        gin_files=["gin_configs/comparisons/token_selection.gin"],
        bindings=["compare.table = 't'", "compare.out = 'o'"],
    )  # fmt: skip
    for name, options in arms.items():
        kept = options.checkpoints.kept_steps(options.total_steps)
        tokens = [step * options.tokens_per_step for step in kept]
        assert compare.at in tokens and 196 in kept and len(kept) >= 4, name
    assert compare.at == pytest.approx(4e5, rel=0.01)


def test_last_checkpoints_have_equal_flops_with_what_selection_costs(here: Path, arms) -> None:
    """Tuning a reference, scoring 468,480 tokens, and a further projection for excess loss."""
    train = import_module("lossline.train").load()
    tuned = build_options(
        "train", train, gin_files=["gin_configs/runs/token_selection_reference.gin"],
        bindings=["from_run.run = 'base'"],
    )  # fmt: skip
    per_token = tuned.flops_per_token
    once = tuned.total_tokens * per_token + 468_480 * per_token / 3
    spent = {}
    for name, options in arms.items():
        chosen = options.objective
        more = 2 * 128 * 2048 if chosen and chosen.score.needs_current_model else 0
        spent[name] = options.total_tokens * (per_token + more)
        spent[name] += once if chosen and chosen.scores else 0
    usual = spent["excess-60"]
    assert all(flops == pytest.approx(usual, rel=0.002) for flops in spent.values()), spent


def test_every_arm_trains_alike_but_for_its_selection_and_length(arms) -> None:
    fixed = [
        replace(o, objective=None, steps=1, checkpoints=replace(o.checkpoints, steps=(), count=0),
                directory="x", name="x")
        for o in arms.values()
    ]  # fmt: skip
    assert all(options == fixed[0] for options in fixed)
    assert type(fixed[0].schedule).__name__ == "ConstantSchedule"


def test_training_sets_have_no_document_in_common(here: Path) -> None:
    """Clean text is the start of the gathered abstracts; each set leaves out those before it."""
    [noisy, clean, held_out] = build_options(
        "prepare", import_module("lossline.prepare").load(),
        gin_files=["gin_configs/data/token_selection_stores.gin"], bindings=[],
    ).stores  # fmt: skip
    base, more = noisy.sets
    assert (clean.sets, clean.splits, held_out.splits) == (("pubmed",), ("train",), ("validation",))
    assert base.skip_megabytes["pubmed"] > clean.max_megabytes
    for domain, size in base.megabytes.items():
        # A page of a long document may reach beyond the megabytes asked for.
        assert more.skip_megabytes[domain] > base.skip_megabytes.get(domain, 0) + size + 0.05
    assert "wiki" not in base.megabytes and "wiki" not in more.megabytes
    assert dict(base.noise) == dict(more.noise)


@pytest.mark.parametrize("name", ["token_selection.gin", "token_selection_small.gin"])
def test_commands_before_the_runs_resolve_and_make_what_the_arms_read(
    here: Path, name: str
) -> None:
    options = options_of(name)
    made = {}
    for command in options.before:
        verb, _, loader, flags, arguments = form_of(study._job(options, command))
        files, bindings = _parse_command_line(verb, "", flags, arguments, loader)
        made.setdefault(command.verb, []).append(
            build_options(verb, loader(), gin_files=files, bindings=bindings)
        )
    base, reference, own = made["train"]
    runs = [trained(options, run) for run in planned(options)]
    assert {o.start.run for o in [reference, own, *runs]} == {base.directory}
    assert base.model == reference.model == own.model == runs[0].model
    assert own.store == runs[0].store == NOISY != reference.store != base.store
    assert reference.total_steps == own.total_steps
    by_reference, by_own = made["score"]
    assert (by_reference.run, by_own.run) == (reference.directory, own.directory)
    assert by_reference.stores == by_own.stores == (NOISY,)
    assert len(by_own.quantities) == 2
    read = {o.objective.scores for o in runs if o.objective and o.objective.scores}
    assert read == {by_reference.out, by_own.out}


# --- the small form ------------------------------------------------------------------------------


def make_stores(root: Path) -> None:
    """Make small stores at the places where the study's own commands make them."""
    vocabulary, random = Bytes("bpe2048_web"), np.random.default_rng(0)
    for name in ("noisy_base", "noisy", "pubmed"):
        texts = [
            f"{name} {number} " * 30 + "".join(map(chr, random.integers(97, 123, 100)))
            for number in range(12)
        ]
        write_store(root / name / "train", texts, vocabulary, name=name)
    for name in ("pubmed", "wiki"):
        texts = [f"{name} text {number}. " * 5 for number in range(2)]
        write_store(root / name / "validation", texts, vocabulary, name=name, split="validation")
    items = [Item(id=str(i), context=f"why {i}", choices=(" yes",), gold=0) for i in range(3)]
    write_task(root / "tasks" / "medmcqa", items, vocabulary, benchmark="medmcqa")


SHORT = "train.batch_size = 8\ntrain.context_length = 64\n"


def call(job: Job) -> None:
    """Run a verb in this process."""
    verb, description, loader, flags, arguments = form_of(job)
    if verb == "train":
        arguments.append("--gin.train.context_length=64")
    if verb == "evaluate":
        arguments += ["--gin.evaluate.stride=48", "--gin.evaluate.batch_size=8"]
    if verb == "score":
        arguments += ["--gin.token_scores.batch_size=8"]
    if "--gin.compare.at=8192" in arguments:
        arguments.append("--gin.compare.at=2048")
    if any(argument.endswith("compare-2'") for argument in arguments):
        arguments.append("--gin.compare.unequal='exclude'")  # these stores are smaller
    run_verb(verb, description, loader, flags=flags, argv=arguments)


def call_many(jobs: list[Job], **_: object) -> None:
    for job in jobs:
        call(job)


@pytest.fixture(scope="module")
def folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the finished small form. Text and stores are there already."""
    folder = tmp_path_factory.mktemp("token_selection")
    (folder / "gin_configs").symlink_to(repository / "gin_configs")
    make_stores(folder / "data/stores/bpe2048_web")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(study, "run", call)
        patch.setattr(study, "run_many", call_many)
        (folder / "run.gin").write_text('include "runs/token_selection_small.gin"\n' + SHORT)
        options = options_of(
            "token_selection_small.gin", 'study.run_gin_file = "run.gin"', "study.processes = 1"
        )
        made: list[Command] = [c for c in options.before if c.verb in ("train", "score")]
        study.run_study(replace(options, before=made))
    return folder / "runs/token_selection_small"


@pytest.mark.slow
def test_small_form_compares_the_arms_at_equal_tokens(folder: Path) -> None:
    methods = pd.read_csv(folder / "compare/methods.csv")
    assert Counter(methods["target"]) == {
        "target text": 4, "target questions": 4, "general text": 4
    }  # fmt: skip
    assert (methods["runs"] == 2).all()
    assert np.isfinite(methods[["mean", "low", "high"]]).all(axis=None)
    assert (folder / "compare/report.html").exists()
    assert (folder / "report/report.html").exists()


@pytest.mark.slow
def test_small_form_records_selection_and_origin_of_every_run(folder: Path) -> None:
    table = tables.read(folder / "losses.parquet")
    assert (table["status"] == "ok").all() and set(table["eval_set"]) == SETS
    of_arm = table.groupby("factor.arm")["token_selection"].unique().explode().to_dict()
    assert of_arm["plain"] == "all"
    assert of_arm["excess-60"].startswith("excess loss 60% of the batch, reference reference")
    assert of_arm["random-60"].startswith("random 60%")
    assert of_arm["self-both-60"].startswith("intersection 60% of the corpus, reference self_ref")
    assert set(table["start_run"]) == {"base"}
    costs = table.groupby("factor.arm")["selection_flops"].max()
    assert costs["plain"] == costs["random-60"] == 0
    assert costs["excess-60"] > costs["self-both-60"] > 0
    share = (table["trained_tokens"] / table["tokens"]).groupby(table["factor.arm"]).mean()
    assert share["plain"] == 1
    assert share["excess-60"] == pytest.approx(0.6, abs=0.01)
    assert share["random-60"] == pytest.approx(0.6, abs=0.06)
