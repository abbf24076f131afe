"""Translation of a law to another training set, planted and published; Gadre's two steps."""

import numpy as np
import pandas as pd
import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.laws.forms import ErrorLaw
from lossline.laws.solver import fit
from lossline.lines.translation import near_optimal, score_translations, translate
from lossline.prediction.gadre import ErrorPrior, average_error, predict_error
from lossline.tables.sweeps import import_sweep


def loss_of(name, N, D):
    """Return two laws that a line connects exactly: b = 1.3 + 0.9 (a - 1.8)^1.05."""
    reducible = 350.0 * N**-0.34 + 900.0 * D**-0.35
    return 1.8 + reducible if name == "a" else 1.3 + 0.9 * reducible**1.05


def planted(noise=0.001, seed=0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows = []
    for name in ("a", "b"):
        for C in np.geomspace(2e17, 5e19, 8):
            for ratio in (3, 6, 10, 18, 30, 60, 120):
                N = np.sqrt(C / 6 / ratio)
                D = N * ratio
                rows.append(
                    dict(run_id=f"{name}-{C:.2e}-{ratio}", architecture="llama", tokenizer="bpe",
                         pretraining_data=name, params=N, tokens=D, flops=C, step=1,
                         eval_set="own", kind="validation",
                         loss=loss_of(name, N, D) * np.exp(random.normal(0, noise)))
                )  # fmt: skip
    return tables.from_rows(rows)


def test_planted_law_is_translated_with_few_target_runs():
    table = planted()
    target = table[table.pretraining_data == "b"]
    few = target[near_optimal()(target)]
    assert len(few) == 8
    found = translate(table[table.pretraining_data == "a"], few)
    N, D = np.array([3e9, 1e8]), np.array([6e10, 1e10])
    np.testing.assert_allclose(found.predict(N=N, D=D), loss_of("b", N, D), rtol=0.01)


def test_missing_rows_of_source_or_target_raise_a_user_error():
    table = planted()
    source, target = (table[table.pretraining_data == name] for name in ("a", "b"))
    with pytest.raises(UserError, match="eval_set 'c4' is not in the source's rows; they have own"):
        translate(source, target, x_set="c4")
    with pytest.raises(UserError, match="target's rows; there are no rows"):
        translate(source, target.iloc[:0])
    far = target.assign(params=target.params * 50, flops=target.flops * 2500)
    with pytest.raises(UserError, match="no checkpoints of equal N and D"):
        translate(source, far.assign(tokens=far.tokens * 50))


def test_translation_scores_between_baseline_and_skyline():
    scores = score_translations(planted())
    assert len(scores) == 2
    assert (scores.r2 > scores.baseline).all()
    assert (scores.r2 > 0.99).all()
    assert (scores.r2 <= scores.skyline + 0.003).all()


def test_pair_without_common_scales_does_not_stop_the_others():
    table = planted()
    far = table[table.pretraining_data == "a"].assign(pretraining_data="c")
    far["run_id"] = "c-" + far["run_id"]
    far[["params", "tokens", "flops"]] *= [50, 50, 2500]
    scores = score_translations(pd.concat([table, far], ignore_index=True))
    bad = scores[scores.target.str.contains("c,") & scores.source.str.contains("a,")]
    assert bad.r2.isna().all() and (bad.message != "").all()
    assert scores.r2.notna().sum() >= 2


def test_published_sweep_translates_as_well_as_published(published_data):
    path = published_data / "kempner_sweep.csv"
    if not path.exists():
        pytest.skip(f"published measurements absent: {path}")
    scores = score_translations(
        import_sweep("kempner", path).table, choose=near_optimal(leave_out=[475_239_680])
    )
    assert len(scores) == 12
    assert scores.r2.mean() >= 0.995
    assert scores.r2.min() >= 0.99
    assert scores.few.between(6, 8).all()


def test_planted_error_is_predicted_by_way_of_the_loss():
    N, M = np.meshgrid(np.geomspace(1e7, 4e8, 4), [5, 20, 80, 320])
    runs = pd.DataFrame({"params": N.ravel(), "tokens": (N * M).ravel()})
    runs["loss"] = 1.8 + 160 * runs.params**-0.27 + 350 * runs.tokens**-0.27
    runs["error"] = 0.86 - 2.2 * np.exp(-0.71 * runs.loss)
    found = predict_error(runs)
    loss = 1.8 + 160 * 7e9**-0.27 + 350 * 1.4e11**-0.27
    assert found.loss(N=7e9, D=1.4e11) == pytest.approx(loss, rel=1e-3)
    assert found.error(N=7e9, D=1.4e11) == pytest.approx(
        0.86 - 2.2 * np.exp(-0.71 * loss), rel=2e-3
    )


def test_errors_at_chance_bend_the_error_law_less_than_in_a_plain_fit():
    """Tiny models stay at the level of chance, where the law does not hold."""
    N, M = np.meshgrid(np.geomspace(1e7, 4e8, 4), [5, 10, 20, 40, 80, 160, 320])
    runs = pd.DataFrame({"params": N.ravel(), "tokens": (N * M).ravel()})
    runs["loss"] = 1.8 + 160 * runs.params**-0.27 + 350 * runs.tokens**-0.27
    runs["error"] = np.minimum(
        0.86 - 2.2 * np.exp(-0.71 * runs.loss), 0.86 - 2.2 * np.exp(-0.71 * 3.6)
    )
    loss = np.array([1.8 + 160 * 7e9**-0.27 + 350 * 1.4e11**-0.27])
    truth = 0.86 - 2.2 * np.exp(-0.71 * loss)
    plain = fit(ErrorLaw(), {"x": runs.loss.to_numpy()}, runs.error.to_numpy())
    found = predict_error(runs).error_law
    assert abs(found.predict(x=loss) - truth) < 0.5 * abs(plain.predict(x=loss) - truth)


def test_one_noisy_run_hardly_moves_a_prediction_from_few():
    """Five runs leave gamma open: without its prior, 2% of one error moves the prediction 0.029."""
    loss = np.array([5.2, 3.8, 3.4, 3.0, 2.7])
    runs = pd.DataFrame({"params": [1e7, 8e7, 1.5e8, 4e8, 1.4e9], "tokens": 1e10, "loss": loss})
    predicted = []
    for noise in (-0.02, 0.02):
        error = 0.86 - 2.2 * np.exp(-0.71 * loss)
        error[1] *= 1 + noise
        law = predict_error(runs.assign(error=error)).error_law
        predicted.append(float(law.predict(x=np.array([2.3]))[0]))
    assert np.ptp(predicted) < 0.015


def test_runs_that_do_not_determine_the_error_law_are_a_user_error():
    N = np.geomspace(1e7, 4e8, 6)
    runs = pd.DataFrame({"params": N, "tokens": 20 * N, "loss": 1.8 + 160 * N**-0.27, "error": 0.7})
    runs.loc[1:, "error"] = np.nan
    with pytest.raises(UserError, match="fewer than 2 different losses among the 1 runs"):
        predict_error(runs)
    with pytest.raises(UserError, match="gamma and log_gamma must be positive"):
        ErrorPrior(gamma=0.0)


def test_missing_task_is_a_user_error():
    with pytest.raises(UserError, match="no accuracy on piqa"):
        average_error(planted(), ["piqa"])
