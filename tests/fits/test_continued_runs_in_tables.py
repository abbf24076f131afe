"""Runs that started from another run: their tokens and FLOPs are no scale, and reports say so."""

import pandas as pd
import pytest
from planted_comparison import planted
from planted_study import Study

from lossline.attribution import AttributionOptions, attribute
from lossline.comparisons.measurements import measure
from lossline.comparisons.options import CompareOptions
from lossline.fits.fitting import TableFitOptions, fit_table
from lossline.lines.fitting import LineOptions
from lossline.matching.groups import design
from lossline.matching.run_facts import FRESH, START_OPTION
from lossline.reporting.report import write_report
from lossline.tables.pairing import one_set, pair_groups

QUICK = TableFitOptions(
    x_sets=("legal",), y_sets=("wiki",), units=("loss",), law_resamples=0,
    lines=LineOptions(resamples=0), attribution=AttributionOptions(resamples=0),
)  # fmt: skip
ORIGIN = {"start_run": "base", "start_step": 200, "start_tokens": 1e8, "start_flops": 1e15}


def continued(table: pd.DataFrame, runs: list[str], **origin) -> pd.DataFrame:
    """Return the table with these runs marked as continued."""
    facts = ORIGIN | origin
    mask = table["run_id"].isin(runs)
    return table.assign(
        **{name: table[name].mask(mask, value) for name, value in facts.items() if name in table}
    )


@pytest.fixture(scope="module")
def fresh() -> pd.DataFrame:
    return Study(sets={"legal": 0.0, "wiki": 0.3}, seeds=2).table()


@pytest.fixture(scope="module")
def mixed(fresh) -> pd.DataFrame:
    """The same runs, and copies of two of them that continue another run, with lower losses."""
    copies = fresh[fresh["run_id"].isin(["run-00", "run-02"])]
    copies = copies.assign(run_id=copies["run_id"] + "-more", loss=copies["loss"] * 0.7)
    names = list(copies["run_id"].unique())
    return pd.concat([fresh, continued(copies, names)], ignore_index=True)


def test_no_law_of_scale_mixes_fresh_and_continued_runs(fresh, mixed):
    without, with_both = (fit_table(table, QUICK) for table in (fresh, mixed))
    assert any(law.parameters for law in without.compute_laws)
    assert with_both.compute_laws == without.compute_laws
    pd.testing.assert_frame_equal(with_both.heldout, without.heldout)
    (reason,) = with_both.excluded["reason"][with_both.excluded["what"].str.contains("more")]
    assert "no law from scale to loss" in reason and "only their own part" in reason
    assert not without.excluded["reason"].str.contains("own part").any()


def test_a_group_of_continued_runs_alone_gets_no_law_and_the_reason(fresh):
    llama = list(fresh.loc[fresh["architecture"] == "llama", "run_id"].unique())
    found = fit_table(continued(fresh, llama), QUICK)
    laws = {law.group["architecture"]: law for law in found.compute_laws}
    assert laws["mamba"].parameters
    assert not laws["llama"].parameters
    assert "because they continue another run" in laws["llama"].message
    # Losses of one checkpoint need no scale: the lines of these runs are fitted.
    assert {line.group["architecture"] for line in found.lines if line.parameters} >= {"llama"}


def test_pairs_of_two_runs_need_a_scale_and_pairs_of_a_checkpoint_do_not(fresh, mixed):
    rows = one_set(mixed, "wiki", "loss")
    aside = rows["run_id"].str.endswith("more")
    assert rows.loc[aside, ["tokens", "flops"]].isna().all(axis=None)
    assert rows.loc[~aside, ["tokens", "flops"]].notna().all(axis=None)
    more = mixed[mixed["run_id"].str.endswith("more")]
    assert len(pair_groups(more, fresh, "wiki", "wiki")) == 0


def test_a_report_says_what_its_axis_counts(fresh, mixed, tmp_path):
    page = write_report(fit_table(mixed, QUICK), tmp_path / "mixed").read_text()
    assert "parameters: 2 runs (run-00-more, run-02-more)" in page
    assert "count only their own part, since the start" in page
    drawn = (tmp_path / "mixed/figures/compute-validation.svg").read_text()
    assert "of continued runs: since their start" in drawn
    plain = write_report(fit_table(fresh, QUICK), tmp_path / "fresh").read_text()
    assert "Started from another run" not in plain
    drawn = (tmp_path / "fresh/figures/compute-validation.svg").read_text()
    assert "since their start" not in drawn


# --- the factor -----------------------------------------------------------------------------------


def starts(table: pd.DataFrame) -> dict[str, str]:
    return design(table).runs[START_OPTION].to_dict()


def test_two_origins_are_two_levels_of_one_factor(fresh):
    table = continued(fresh, ["run-00"])
    table = continued(table, ["run-01"], start_step=400)
    found = starts(table)
    assert found["run-00"] == "base step 200" and found["run-01"] == "base step 400"
    assert found["run-02"] == FRESH
    # Runs 0 and 1 are two seeds of one setting: now they differ in a factor, which is no noise.
    groups = design(table).groups(START_OPTION)
    assert {"base step 200", "base step 400"} in [set(group.levels) for group in groups]
    assert START_OPTION not in design(fresh).runs


def test_levels_are_told_apart_by_the_parameters_not_by_their_names(fresh):
    def with_hashes(**of_run):
        names = {run: (start, digest) for run, (start, digest) in of_run.items()}
        table = fresh
        for run, (start, _) in names.items():
            table = continued(table, [run.replace("_", "-")], start_run=start)
        hashes = {run.replace("_", "-"): digest for run, (_, digest) in names.items()}
        return table.assign(**{START_OPTION: table["run_id"].map(hashes)})

    same = starts(with_hashes(run_00=("a", "1" * 64), run_01=("copy-of-a", "1" * 64)))
    assert same["run-00"] == same["run-01"] == "a step 200"
    other = starts(with_hashes(run_00=("a", "1" * 64), run_01=("a", "2" * 64)))
    assert other["run-00"] == "a step 200 (11111111)"
    assert other["run-01"] == "a step 200 (22222222)"


def test_the_origin_is_tested_like_any_factor(fresh):
    """Continued copies of all runs on wiki lie 0.5 nats lower: the origin moves the line."""
    wiki = fresh[(fresh["pretraining_data"] == "wiki") & (fresh["tokenizer"] == "bpe")]
    copies = wiki.assign(run_id=wiki["run_id"] + "-more")
    lower = copies["eval_set"] == "wiki"
    copies = copies.assign(
        loss=copies["loss"] - 0.5 * lower, bits_per_byte=copies["bits_per_byte"] - 0.18 * lower
    )
    copies = continued(copies, list(copies["run_id"].unique()))
    found = attribute(
        pd.concat([fresh, copies], ignore_index=True), AttributionOptions(resamples=0)
    )
    (factor,) = [factor for factor in found.factors if factor.factor == START_OPTION]
    assert factor.sentence.startswith("Changing the parameters at the start moves the line")


def test_a_comparison_says_that_its_budgets_are_the_runs_own_part():
    options = CompareOptions(by="factor.target", targets={"code": ("code",), "bio": ("bio",)})
    table = planted()
    assert not measure(table, options).notes
    found = measure(continued(table, list(table["run_id"].unique())), options)
    assert len(found.notes) == 1 and "count only their own part" in found.notes[0]
    half = list(table.loc[table["factor.method"] == "dsir", "run_id"].unique())
    notes = measure(continued(table, half), options).notes
    assert any(
        "differ in the parameters at the start (base step 200, fresh parameters" in n for n in notes
    )
