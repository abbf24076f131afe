"""``experiments/published/predict_swarms.py`` on planted files of the published layouts."""

import numpy as np
import pandas as pd
import pytest
from planted_swarm import mixtures, power_losses

COMPONENTS = ("arxiv", "pile_cc", "github", "europarl")


@pytest.fixture
def swarms(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "published"))
    import predict_swarms

    monkeypatch.setattr(predict_swarms, "lightgbm", None)
    return predict_swarms


def write_regmix(folder, ending, count, seed, scale=1.0):
    """Write a swarm of RegMix's layout; its rows are in another order in each file."""
    shares = mixtures(count, len(COMPONENTS), seed)
    losses = scale * power_losses(shares, 3, noise=0.003)
    rng = np.random.default_rng(seed)
    for what, values, names in (
        ("mixture", shares.round(3), [f"train_the_pile_{name}" for name in COMPONENTS]),
        ("pile_loss", losses, [f"metric/the_pile_{name}_val_loss" for name in COMPONENTS[:3]]),
    ):
        table = pd.DataFrame(values, columns=names)
        table.insert(0, "index", np.arange(1, count + 1))
        table = table.iloc[rng.permutation(count)]
        table.to_csv(folder / f"regmix_{what}_{ending}.csv", index=False)


def write_olmix(folder, ending, shares):
    """Write a swarm of Olmix's layout."""
    runs = [f"run{i}" for i in range(len(shares))]
    ratios = pd.DataFrame(shares, columns=COMPONENTS)
    metrics = pd.DataFrame(power_losses(shares, 2, noise=0.003), columns=["mmlu", "coqa"])
    for what, table in (("ratios", ratios), ("metrics", metrics)):
        table.insert(0, "run", runs)
        table.insert(1, "name", "a name")
        table.insert(2, "index", np.arange(len(shares)))
        table.to_csv(folder / f"olmix_{what}{ending}.csv")


def test_regmix_folds_and_other_files(swarms, tmp_path):
    write_regmix(tmp_path, "1m", 60, seed=0)
    write_regmix(tmp_path, "1m_test", 30, seed=1)
    write_regmix(tmp_path, "60m", 30, seed=2, scale=0.6)
    (section,) = swarms.sections(tmp_path)
    assert set(section.tables) == {"regmix_folds", "regmix_1m_test", "regmix_60m"}
    ours = {row.what: row.ours for row in section.rows}
    assert float(ours["1M, five folds: mean relative error"].rstrip("%")) < 1
    assert float(ours["1M, unseen mixtures: mean relative error"].rstrip("%")) < 1
    assert "60M, unseen mixtures: mean relative error" not in ours
    assert float(ours["60M, unseen mixtures: Spearman, mean over domains"]) > 97
    published = {row.what: row.published for row in section.rows if row.published}
    assert published["60M, unseen mixtures: Spearman for Pile-CC"] == "linear 89.3, LightGBM 98.6"
    folds = section.tables["regmix_folds"]
    assert len(folds) == 60 * 3 * 3 and folds["predicted"].notna().all()
    assert any("LightGBM is not installed" in note for note in section.notes)


def test_other_files_are_never_fitted(swarms, tmp_path):
    write_regmix(tmp_path, "1m", 60, seed=0)
    write_regmix(tmp_path, "60m", 30, seed=2)
    (before,) = swarms.sections(tmp_path)
    file = tmp_path / "regmix_pile_loss_60m.csv"
    table = pd.read_csv(file)
    table.iloc[:, 1:] *= 3
    table.to_csv(file, index=False)
    (after,) = swarms.sections(tmp_path)
    pd.testing.assert_series_equal(
        after.tables["regmix_60m"]["predicted"], before.tables["regmix_60m"]["predicted"]
    )


def test_each_olmix_swarm_has_its_own_folds(swarms, tmp_path):
    shares = mixtures(50, 4, seed=3)
    shares[:, 3] = 0
    shares = shares[shares.sum(axis=1) > 0]
    shares /= shares.sum(axis=1, keepdims=True)
    write_olmix(tmp_path, "_64", shares)
    alone = shares.copy()
    alone[4] = [0.5, 0, 0, 0.5]  # the only run with the last component
    write_olmix(tmp_path, "", alone)
    first, second = swarms.sections(tmp_path)
    assert first.tables["olmix_folds"]["run"].nunique() == len(shares) - 1
    assert "run4" not in set(first.tables["olmix_folds"]["run"])
    assert any(f"1 of {len(shares)} mixtures left out" in note for note in first.notes)
    assert second.tables["olmix_64_folds"]["run"].nunique() == len(shares)


def test_folder_without_swarms_has_no_section(swarms, tmp_path):
    assert list(swarms.sections(tmp_path)) == []
