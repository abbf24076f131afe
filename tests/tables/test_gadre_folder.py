"""Gadre et al.'s folder: models and evaluations joined by file name."""

import json
from pathlib import Path

import pandas as pd
import pytest

from lossline.errors import UserError
from lossline.tables.sweeps import import_sweep

SHARDS = {
    "openlm": "training/eval_data/val_tok_mult/openlm/shard_00000000.tar",
    "c4_val": "training/eval_data/c4_val/shard-{0000000..0000010}.tar",
    "paloma_falcon-refinedweb": "training/eval_data/val_tok_mult/paloma_falcon-refinedweb/1.tar",
    "de-en": "training/eval_data/val_tok_mult/de-en/val_de-en_100.tar",
}


def put(path: Path, tree) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


def model(name: str, losses: dict[str, float], **facts) -> dict:
    known = {"model": "scaling/open_lm_configs/d=96.json", "tokens": 2 * 10**9, "global_bs": 512,
             "lr": 0.003, "wd": 0.033, "params": 4 * 10**8, "params_no_embed": 35 * 10**7,
             "chinchilla_multiplier": 0.25}  # fmt: skip
    results = [
        {"loss": loss, "loss_sequences_lower_95": loss - 0.1, "tokens": 245760,
         "val_data": [SHARDS.get(name, f"eval_data/{name}/1.tar")], "model": "d=96"}
        for name, loss in losses.items()
    ]  # fmt: skip
    return {"name": name, "dataset_name": "c4_original", "dataset_uuid": "7e",
            "hyperparameters": known | facts, "checkpoint_url": f"{name}/epoch_6.pt",
            "open_lm_args": ["--lr", "0.003"], "results": results, "uuid": "f3"}  # fmt: skip


def evaluation(scores: dict[str, float]) -> dict:
    return {"name": "/mnt/eval/heavy", "uuid": "bf", "model": "d=96", "creation_date": "2024_02_12",
            "eval_metrics": {"icl": scores}}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "exp_data"
    put(out / "models" / "c4-0.25.json", model("c4-0.25", {"openlm": 3.7, "c4_val": 3.0}))
    larger = model("c4-0.5", {"c4_val": 2.9, "openlm": 3.6}, tokens=4 * 10**9)
    put(out / "models" / "c4-0.5.json", larger)
    put(out / "evals" / "evaluation_c4-0.25_heavy.json", evaluation({"arc_easy": 0.4, "copa": 0.6}))
    put(out / "evals" / "evaluation_c4-0.5_heavy.json", evaluation({"copa": 0.7, "arc_easy": 0.5}))
    return out


def test_models_and_evaluations_are_joined_by_file_name(folder):
    found = import_sweep("gadre", folder)
    assert found.notes == ()
    table = found.table.set_index(["run_id", "eval_set"])
    assert (table.status == "ok").all() and len(table) == 8
    losses = {key: loss for key, loss in table.loss.dropna().items()}
    assert losses == {
        ("c4-0.25", "openlm"): 3.7, ("c4-0.25", "c4_val"): 3.0,
        ("c4-0.5", "openlm"): 3.6, ("c4-0.5", "c4_val"): 2.9,
    }  # fmt: skip
    assert table.accuracy.dropna().to_dict() == {
        ("c4-0.25", "arc_easy"): 0.4, ("c4-0.25", "copa"): 0.6,
        ("c4-0.5", "arc_easy"): 0.5, ("c4-0.5", "copa"): 0.7,
    }  # fmt: skip
    row = table.loc[("c4-0.25", "c4_val")]
    assert row.pretraining_data == "c4_original" and row.optimizer == "adamw"
    assert (row.params, row.params_non_embedding, row.tokens) == (4e8, 3.5e8, 2e9)
    assert (row.learning_rate, row.weight_decay, row.flops) == (0.003, 0.033, 6 * 4e8 * 2e9)
    assert float(table["option.batch_size"].iloc[0]) == 512
    assert row.step == round(2e9 / (512 * 2048))


@pytest.mark.parametrize("rows", [slice(0, 4), slice(60, 67)])
def test_folder_gives_the_loss_table_of_the_published_table(published_data, tmp_path, rows):
    frame = pd.read_csv(published_data / "gadre_models.csv", float_precision="round_trip")
    frame = frame.iloc[rows]
    frame.to_csv(tmp_path / "models.csv", index=False)
    for _, row in frame.iterrows():
        known = {name: row[name] for name in frame.columns if pd.notna(row[name])}
        losses = {name[5:]: known[name] for name in known if name.startswith("loss/")}
        scores = {name[9:]: known[name] for name in known if name.startswith("accuracy/")}
        facts = {"params": "params", "params_no_embed": "params_non_embedding", "lr": "lr",
                 "wd": "weight_decay", "tokens": "tokens",
                 "global_bs": "batch_sequences"}  # fmt: skip
        tree = model(row["name"], losses, **{key: float(known[n]) for key, n in facts.items()})
        tree["dataset_name"] = row["pretraining_data"]
        put(tmp_path / "exp_data" / "models" / f"{row['name']}.json", tree)
        where = tmp_path / "exp_data" / "evals" / f"evaluation_{row['name']}_heavy.json"
        put(where, evaluation(scores))
    order = ["run_id", "eval_set"]
    found, expected = (
        import_sweep("gadre", tmp_path / name).table.sort_values(order, ignore_index=True)
        for name in ("exp_data", "models.csv")
    )
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


def test_files_of_the_source_agree_with_its_table(published_data):
    folder = published_data / "gadre_exp_data"
    if not folder.is_dir():
        pytest.skip("the source's own folder is not there")
    order = ["run_id", "eval_set"]
    found = import_sweep("gadre", [folder, published_data / "gadre_task_baselines.csv"])
    table = import_sweep(
        "gadre", [published_data / "gadre_models.csv", published_data / "gadre_task_baselines.csv"]
    ).table
    expected = table[table.run_id.isin(found.table.run_id)].sort_values(order, ignore_index=True)
    assert found.table.run_id.nunique() >= 3 and found.notes == ()
    pd.testing.assert_frame_equal(
        found.table.sort_values(order, ignore_index=True), expected, check_exact=True
    )


def test_missing_and_foreign_files_get_a_note(folder):
    (folder / "evals" / "evaluation_c4-0.5_heavy.json").unlink()
    put(folder / "evals" / "evaluation_gone_heavy.json", evaluation({"copa": 0.1}))
    put(folder / "datasets" / "c4.json", {"uuid": "7e", "tokens": 10**12})
    found = import_sweep("gadre", folder)
    assert found.notes[:3] == (
        f"{folder}: c4-0.5: no evaluation_NAME_heavy.json with its accuracies",
        f"{folder}: evaluation_gone_heavy.json: no model of this name; left out",
        f"{folder}: c4.json: neither a model nor its evaluation; left out",
    )
    assert found.table.run_id.unique().tolist() == ["c4-0.25", "c4-0.5"]
    assert found.table.accuracy.notna().sum() == 2


def test_contradicting_values_are_a_user_error(folder):
    tree = model("c4-0.5", {"c4_val": 2.9, "openlm": 3.6})
    tree["results"].append(tree["results"][0] | {"loss": 2.8})
    put(folder / "models" / "c4-0.5.json", tree)
    with pytest.raises(
        UserError, match=r"c4-0.5.json: 'loss/c4_val' is 2.8 here and 2.9 elsewhere"
    ):
        import_sweep("gadre", folder)
    tree["results"][-1]["val_data"] = []
    put(folder / "models" / "c4-0.5.json", tree)
    with pytest.raises(UserError, match="a result has val_data in 0 folders"):
        import_sweep("gadre", folder)
    put(folder / "models" / "c4-0.5.json", model("c4-0.5", {"c4_val": 2.9}))
    put(folder / "more" / "c4-0.5.json", model("c4-0.5", {"c4_val": 2.9}))
    with pytest.raises(UserError, match=r"the model 'c4-0.5' is in .* too; keep one of them"):
        import_sweep("gadre", folder)
