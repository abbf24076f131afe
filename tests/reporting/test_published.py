"""Published figures, drawn from the published tables: number of lines, and published scores."""

import matplotlib
import pytest

matplotlib.use("agg")

from lossline.errors import UserError
from lossline.reporting import published
from tests.reporting import planted


@pytest.fixture(scope="module")
def kempner(published_data):
    table = published.load_sweep("kempner", published_data, "kempner_sweep.csv")
    if table is None:
        pytest.skip("kempner_sweep.csv is not in the folder of published measurements")
    return table


def drawn(ax, prefix):
    return [line.get_gid() for line in ax.lines if str(line.get_gid()).startswith(prefix)]


def test_an_absent_file_is_skipped_with_a_message(tmp_path, capsys):
    assert published.load_sweep("gadre", tmp_path, "gadre_models.csv") is None
    assert "gadre_models.csv: file not found" in capsys.readouterr().out


def test_train_and_test_draws_a_line_per_pair(kempner):
    data = kempner["pretraining_data"].unique()
    base = "fineweb-edu-100b"
    figure = published.train_and_test(kempner, base=base, test="hellaswag")
    counts = [len(drawn(ax, "line/")) for ax in figure.axes]
    assert counts == [len(data) - 1, len(data), len(data) - 1]
    with pytest.raises(UserError, match="base = 'nothing': no model in the table was trained on"):
        published.train_and_test(kempner, base="nothing", test="hellaswag")


def test_translation_is_as_good_as_published(kempner):
    """Published R²: .986 to .991 from 6-8 runs; a law fitted to only these runs has .45 to .975."""
    _, scores = published.translation(kempner, base="fineweb-edu-100b")
    assert len(scores) == kempner["pretraining_data"].nunique() - 1
    assert (scores["r2"] > 0.985).all()
    assert (scores["r2"] > scores["baseline"]).all()


def test_over_training_predicts_the_larger_models(published_data):
    table = published.load_sweep("gadre", published_data, "gadre_models.csv")
    if table is None:
        pytest.skip("gadre_models.csv is not in the folder of published measurements")
    figure = published.over_training(table, eval_set="c4_val")
    for ax in figure.axes:
        assert len(drawn(ax, "line/")) == 2
        assert any("held out" in gid for gid in drawn(ax, "points/"))


def test_matched_interventions_varies_one_fact_only(capsys):
    recipe = planted.Recipe(sizes=(4e5, 1e6), checkpoints=5)
    table = planted.table(recipe)
    figure = published.matched_interventions(
        table, x="wiki", ys=["legal", "hellaswag"], vary="pretraining_data"
    )
    # Both architectures with the usual tokenizer have three sets; the other tokenizer has one.
    assert len(figure.axes) == 4
    assert all(len(drawn(ax, "points/")) == 3 for ax in figure.axes)
    one = table[table["architecture"] == "mamba"]
    assert published.matched_interventions(one, x="wiki", ys=["legal"], vary="tokenizer") is None
    assert "tokenizer never varies" in capsys.readouterr().out
