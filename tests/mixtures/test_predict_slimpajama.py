"""``experiments/published/predict_slimpajama.py`` on a planted file of the published layout."""

import numpy as np
import pandas as pd
import pytest
from planted_mixture_runs import design, mixtures, planted

from lossline.errors import UserError
from lossline.mixtures.scale_laws import Separable

SOURCES = ("arxiv", "book", "c4")
TRUTH = [-0.4, -1.5, np.log(0.35), -1.5, np.log(0.4), 0.05, np.log(0.2), 0.02, -0.01, -0.01,
         1.5, 0.0, -1.5]  # fmt: skip
COUNTS = tuple(np.linspace(2e9, 2e10, 8))


@pytest.fixture
def section(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "published"))
    import predict_slimpajama

    laws = {name: predict_slimpajama.LAWS[name] for name in ("M1", "M3", "separable")}
    monkeypatch.setattr(predict_slimpajama, "LAWS", laws)
    monkeypatch.setattr(predict_slimpajama, "_RESAMPLES", 4)
    monkeypatch.setattr(predict_slimpajama, "_FOLDS", 2)
    return predict_slimpajama


def write(folder, runs):
    table = pd.DataFrame(runs.shares, columns=[f"weight_{name}" for name in SOURCES])
    table["model_size"], table["n_tokens"] = runs.params, runs.tokens
    table["arxiv_loss"] = runs.losses[:, 0]
    table["openhermes_loss"] = 1.1 * runs.losses[:, 0]
    table.loc[3, "openhermes_loss"] = np.nan
    table.to_csv(folder / "mixtures_slimpajama.csv", index=False)


def both(large=(6.8e8,)):
    """Sixteen mixtures at two sizes; the last eight of them at larger sizes too."""
    shares = mixtures(16)
    small = design(shares, sizes=(1.22e8, 3.1e8), tokens=COUNTS, components=SOURCES)
    more = design(shares[8:], sizes=large, tokens=COUNTS, components=SOURCES)
    parts = {
        name: np.concatenate([getattr(small, name), getattr(more, name)])
        for name in ("shares", "params", "tokens", "flops", "losses", "runs")
    }
    runs = type(small)(components=SOURCES, domains=("loss",), **parts)
    return planted(Separable(), TRUTH, runs, noise=1e-3)


@pytest.mark.parametrize("large", [(6.8e8,), (6.8e8, 1.4e9)])
def test_larger_models_and_their_mixtures_are_never_fitted(section, tmp_path, large):
    runs = both(large)
    write(tmp_path, runs)
    (found,) = section.sections(tmp_path)
    assert "8 mixtures fitted, 8 others predicted" in found.title
    points = found.tables["slimpajama"]
    assert set(points["params"]) == set(large)
    assert len(points) == 3 * 2 * 8 * len(large) * len(COUNTS)
    ours = points[points["method"] == "ours"]
    assert ours["relative_error"].abs().mean() < 0.02
    folds = found.tables["slimpajama_folds"]
    assert set(folds["params"]) == {1.22e8, 3.1e8}
    assert {"low_50", "high_80", "low_90", "actual"} <= set(folds)
    # Losses of the held-out models, and of their mixtures at small sizes, have no effect.
    held = np.isin(runs.shares[:, 0], mixtures(16)[8:, 0])
    changed = runs.losses * np.where(held, 2, 1)[:, None]
    other = tmp_path / "changed"
    other.mkdir()
    write(other, type(runs)(**{**vars(runs), "losses": changed}))
    (again,) = section.sections(other)
    np.testing.assert_allclose(again.tables["slimpajama"]["predicted"], points["predicted"])


def test_rows_compare_every_law_and_show_the_backtests(section, tmp_path):
    write(tmp_path, both())
    (found,) = section.sections(tmp_path)
    rows = {row.what: row for row in found.rows}
    assert list(rows["mean relative error of 2 losses"].methods) == ["M1", "M3"]
    assert "M4 1.4%" in rows["mean relative error of 2 losses"].published
    rank = rows["rank correlation over mixtures at 680M: mean of domains (lowest)"]
    assert float(rank.ours.split()[0]) > 0.9
    assert rank.methods["M1"] == "-"  # it knows no mixture
    assert sum(what.startswith("backtest, fitted rows only") for what in rows) == 4


def test_files_without_both_kinds_of_models_are_one_line(section, tmp_path):
    runs = both()
    write(tmp_path, runs[runs.params < 5e8])
    with pytest.raises(UserError, match="nothing to predict: no larger model"):
        list(section.sections(tmp_path))
    write(tmp_path, runs[np.isin(runs.shares[:, 0], mixtures(16)[8:, 0])])
    with pytest.raises(UserError, match="nothing to fit: larger models have all mixtures"):
        list(section.sections(tmp_path))
    table = pd.read_csv(tmp_path / "mixtures_slimpajama.csv").drop(columns="n_tokens")
    table.to_csv(tmp_path / "mixtures_slimpajama.csv", index=False)
    with pytest.raises(UserError, match="column n_tokens is missing"):
        list(section.sections(tmp_path))
