"""``experiments/published``: runs beyond a sweep's largest budget are predicted, never fitted.

Notes name everything that is not predicted.
"""

import numpy as np
import pandas as pd
import pytest

TEXT, TASK = "eval/c4_val/CrossEntropyLoss", "eval/downstream_ce_loss/hellaswag_test_ce_loss"
FACTS = ["id", "data", "params", "tokens", "steps", "iso_flop", "val_loss", TEXT, TASK]
LARGEST = 1e19


@pytest.fixture(scope="module")
def runs(published_data) -> pd.DataFrame:
    """Return the runs of two pretraining sets up to 4.84e19 FLOPs, with two evaluation sets."""
    frame = pd.read_csv(published_data / "kempner_sweep.csv")[FACTS]
    return frame[frame["data"].isin(["fineweb-edu-100b", "starcoder"])].reset_index(drop=True)


def heldout(experiment, folder, sweep, extra) -> tuple[pd.DataFrame, str]:
    """Return the line's predictions and all notes."""
    folder.mkdir()
    sweep.to_csv(folder / "kempner_sweep.csv", index=False)
    if extra is not None:
        extra.to_csv(folder / "kempner_extrapolation.csv", index=False)
    sections = list(experiment("sweep").sections(folder))
    notes = "\n".join(note for section in sections for note in section.notes)
    points = pd.concat([s.tables["heldout"] for s in sections if "heldout" in s.tables])
    return points[points["method"] == "line"].reset_index(drop=True), notes


def test_every_run_of_an_extrapolation_file_is_predicted_or_named(experiment, runs, tmp_path):
    """Rows in any order, ids of the sweep, empty cells, sets that the sweep lacks."""
    inside, beyond = runs[runs["iso_flop"] <= LARGEST], runs[runs["iso_flop"] > LARGEST]
    fresh = [f"x{i}" for i in range(len(beyond))]
    extra = beyond.assign(id=fresh).reset_index(drop=True)
    extra.loc[0, "id"] = inside["id"].iloc[0]  # another run under an id of the sweep
    extra.loc[1, ["iso_flop", "steps", "id"]] = np.nan  # follow from N and D
    extra.loc[2, TASK] = np.nan
    odd = [
        extra.iloc[[3]].assign(data="smollm-corpus", id="new"),
        inside.iloc[[5]],  # in the sweep already
        inside.iloc[[6]].assign(id="low"),
    ]
    mixed = pd.concat([extra, *odd]).sample(frac=1, random_state=0)
    found, notes = heldout(experiment, tmp_path / "one", inside, mixed)

    task = found[found["eval_set"] == "hellaswag"]
    assert len(task) == len(extra) - 1
    assert sorted(task["y"]) == pytest.approx(sorted(extra[TASK].dropna()))
    assert sorted(found.loc[found["eval_set"] == "c4", "y"]) == pytest.approx(sorted(extra[TEXT]))
    pairs = extra.groupby(["params", "iso_flop"], dropna=False).ngroups
    across = found[found["kind"] == "train-to-train"]
    assert len(across) and len(across) <= 2 * pairs
    assert found["flops"].min() > LARGEST * 1.01
    for said in (
        "smollm-corpus: 1 run (new) beyond the sweep, none within",
        "kempner_extrapolation.csv: 1 run (low) not beyond the sweep's own 1e+19 FLOPs",
        f"1 run ({inside['id'].iloc[5]}) that kempner_sweep.csv has too; counted once",
        f"1 run ({inside['id'].iloc[0]}) with an id of the sweep at other compute; kept",
        "hellaswag_test_ce_loss', row",
        f"runs held out: fineweb-edu-100b {(extra['data'] == 'fineweb-edu-100b').sum()}",
    ):
        assert said in notes

    moved = mixed.assign(**{TASK: np.where(mixed["iso_flop"] > LARGEST, 2.0, 1.0) * mixed[TASK]})
    again, _ = heldout(experiment, tmp_path / "two", inside, moved.iloc[::-1])
    key = ["kind", "x_data", "y_data", "eval_set", "x"]
    one, two = (f.sort_values(key).reset_index(drop=True) for f in (found, again))
    assert two["predicted"].to_numpy() == pytest.approx(one["predicted"].to_numpy())
    held = one["eval_set"] == "hellaswag"
    assert np.median(two.loc[held, "y"] / one.loc[held, "y"]) == pytest.approx(2)


@pytest.mark.parametrize(
    ("budgets", "cut", "target"),
    [(8, 2.0912791052e18, 4.84e19), (3, 4.3734e17, 9.5635e17), (1, None, None)],
)
def test_largest_budget_is_held_out_if_no_run_lies_beyond_the_sweep(
    experiment, runs, budgets, cut, target
):
    smallest = np.sort(runs["iso_flop"].unique())[:budgets]
    table = runs[runs["iso_flop"].isin(smallest)].rename(columns={"iso_flop": "flops"})
    found = experiment("heldout").own_hold_out(table)
    assert found == ((None, None) if cut is None else pytest.approx((cut, target), rel=1e-4))


def test_broken_extrapolation_file_does_not_stop_the_sweep(experiment, runs, tmp_path):
    runs.to_csv(tmp_path / "kempner_sweep.csv", index=False)
    (tmp_path / "kempner_extrapolation.csv").write_text("data,params\nstarcoder,1\n")
    table, beyond, notes = experiment("sweep").read(tmp_path)
    assert len(table) == 3 * len(runs) and beyond.empty
    assert "kempner_extrapolation.csv: missing column 'tokens'" in notes[-1]


def test_single_pretraining_set_gets_a_note(experiment, runs, tmp_path):
    one = runs[runs["data"] == "starcoder"]
    found, notes = heldout(experiment, tmp_path / "one", one, None)
    assert set(found["kind"]) == {"train-to-validation", "train-to-task"}
    assert "one pretraining set: no pair of them" in notes


def test_gadre_sets_without_runs_to_fit_do_not_stop_the_others(
    experiment, published_data, tmp_path
):
    frame = pd.read_csv(published_data / "gadre_models.csv")
    large = frame[frame["params"] > 1e9].iloc[[0]].assign(params=7e9, name="large")
    alone = large.assign(pretraining_data="rw_original", name="alone")
    pd.concat([frame, large, alone]).to_csv(tmp_path / "gadre_models.csv", index=False)
    (section,) = experiment("others").gadre(tmp_path)
    assert section.notes[0].startswith("rw_original: left out: ")
    points = section.tables["gadre"]
    assert set(points["data"]) == {"c4_original", "rpj"}
    assert (points.loc[points["data"] == large["pretraining_data"].iloc[0], "params"] > 2e9).all()


def test_target_models_of_the_ladder_are_never_fitted(experiment, published_data, tmp_path):
    """7B and 13B are both predicted from models up to 1.3B."""
    frame = pd.read_csv(published_data / "olmo_ladder.csv")
    frame = frame[frame["step"] == frame.groupby("run")["step"].transform("max")]
    keep = [c for c in frame if not c.startswith("eval/") or "c4_en-" in c or "pile-" in c]
    frame = frame[keep]
    top = frame[frame["params"] == frame["params"].max()].iloc[[-1]]
    large = [top.assign(params=n, run=str(n)) for n in (7e9, 13e9)]
    unknown = top.assign(params=np.nan, run="nameless")
    pd.concat([frame, *large, unknown]).to_csv(tmp_path / "olmo_ladder.csv", index=False)
    (section,) = experiment("ladder").sections(tmp_path)
    assert "fitted up to 1279M parameters, predicted at 7000M, 13000M" in section.title
    assert set(section.tables["olmo_ladder"]["run"]) == {str(7e9), str(13e9)}
    assert "1 runs without params (nameless); left out" in section.notes
