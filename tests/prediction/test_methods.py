"""Methods: each finds its own planted world, and both stages see the same resamples."""

import numpy as np
import pandas as pd
import planted_runs
import pytest
from planted_runs import CHANCE

from lossline.errors import UserError
from lossline.prediction import PredictOptions, predict_table
from lossline.prediction.intervals import run_weights
from lossline.prediction.methods import (
    LOSS_METHODS,
    METHODS,
    Consensus,
    Refusal,
    TwoStageFit,
    named,
    scale_of,
)
from lossline.prediction.observations import Observations, observe
from lossline.prediction.results import Target, TargetKind

TARGET = Target(
    name="large",
    kind=TargetKind.PREDICTION,
    params=6.4e9,
    tokens=6.4e9 * 20,
    flops=6 * 6.4e9 * 6.4e9 * 20,
)


def compute_loss(n, d):
    return (6 * n * d / 1e30) ** -0.05


def sigmoid(loss, k=4.0, middle=0.85, height=0.75):
    return CHANCE + height / (1 + np.exp(-k * (middle - loss)))


def q(value):
    return CHANCE + (1 - CHANCE) * value


# Method -> a world that is exactly of its form.
WORLDS = {
    "fp": {"task": lambda n, d: (6 * n * d / 1e24) ** 0.08},
    "gpt4": {"task": lambda n, d: np.exp(-((6 * n * d / 1e21) ** -0.2))},
    "direct": {"task": lambda n, d: q(np.exp(-((6 * n * d / 1e21) ** -0.2)))},
    "direct_nd": {"task": lambda n, d: q(np.exp(-(300 * n**-0.3 + 60 * d**-0.2)))},
    "flp": {
        "loss": compute_loss,
        "task": lambda n, d: 1.5 - 0.4 * compute_loss(n, d),
    },
    "llama3": {
        "gold": compute_loss,
        "task": lambda n, d: sigmoid(compute_loss(n, d), 2.0, 2.3, 0.7),
    },
    "ladder": {"task": lambda n, d: sigmoid(planted_runs.gold_loss(n, d), 4.0, 0.85, 0.6)},
    "gadre": {"task": lambda n, d: 1 - 0.8 + 3 * np.exp(-0.9 * planted_runs.validation_loss(n, d))},
}


def observed(table: pd.DataFrame, **options) -> Observations:
    return observe(table, PredictOptions(**options))["arc_easy"]


def small_runs(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["run_id"] != planted_runs.TARGET].reset_index(drop=True)


@pytest.fixture(scope="module")
def noisy() -> pd.DataFrame:
    return planted_runs.table(noise=0.005)


@pytest.fixture(scope="module")
def observations() -> Observations:
    return observed(small_runs(planted_runs.table()))


def test_every_method_of_a_paper_has_a_world():
    assert set(WORLDS) == set(METHODS) - {"lossline"}


@pytest.mark.parametrize("name", list(WORLDS))
def test_a_method_recovers_its_own_world(name):
    world = WORLDS[name]
    laws = {key: world[key] for key in ("loss", "gold") if key in world}
    table = planted_runs.table(tasks={"arc_easy": world["task"]}, **laws)
    options = PredictOptions(methods=(name,), resamples=0, below_chance="predict")
    found = predict_table(table, options).predictions
    assert found["actual"].iloc[0] == pytest.approx(world["task"](TARGET.params, TARGET.tokens))
    assert abs(found["relative_error"].iloc[0]) < 1e-4


@pytest.mark.parametrize("metric", ["bits_per_byte", "accuracy"])
def test_the_default_is_close_in_a_world_that_is_not_its_own(metric):
    found = predict_table(planted_runs.table(), PredictOptions(metric=metric, resamples=0))
    ours = found.predictions[found.predictions["method"] == "lossline"]
    assert abs(ours["relative_error"].iloc[0]) < 0.03


@pytest.mark.parametrize("name", list(LOSS_METHODS))
def test_losses_of_gold_answers_are_predicted_by_laws_of_losses(name):
    law = compute_loss if name in ("fp", "power_nd") else planted_runs.gold_loss
    options = PredictOptions(metric="bits_per_byte", methods=(name,), resamples=0)
    error = predict_table(planted_runs.table(gold=law), options).predictions["relative_error"]
    # The floored law in C is not the world's; the default has a prior.
    limit = {"floored": 0.05, "lossline": 0.01}.get(name, 1e-4)
    assert abs(error.iloc[0]) < limit


@pytest.mark.parametrize("middle", ["loss", "domains", "gold"])
@pytest.mark.parametrize("law", ["power_of_scale", "powers_of_scale", "floored_power_of_compute"])
@pytest.mark.parametrize("score", ["chance_sigmoid", "sigmoid", "asymmetric_sigmoid"])
def test_any_first_stage_goes_with_any_second(middle, law, score, observations):
    # The choice of points goes round, so that each comes with each middle.
    index = ("loss", "domains", "gold").index(middle)
    points = ("", "/final", "/improving")[(index + len(law) + len(score)) % 3]
    name = f"{middle}/{law}/{score}{points}"
    method = named((name,), "accuracy", 0.05)[name]
    found = method.fit(observations, run_weights(len(observations.names), 3, 0))
    assert isinstance(found, TwoStageFit), found
    (loss, *_, last) = found.stages
    assert (loss.fit.form.name, last.fit.form.name) == (law, score)
    assert len(found.losses) == (2 if middle == "domains" else 1)
    near = dict(zip(("params", "tokens", "flops"), (1e9, 2e10, 1.2e20), strict=True))
    inside = Target(name="", kind=TargetKind.PROJECTION, **near)
    truth = planted_runs.score(planted_runs.gold_loss(1e9, 2e10))
    assert found.predict([inside])[0, 0] == pytest.approx(truth, rel=0.1)


@pytest.mark.parametrize(
    "name", ["gold/powers_of_scale", "gold/nothing/sigmoid", "olmo", "gold/line/line/final/x"]
)
def test_an_unknown_method_is_one_line(name):
    with pytest.raises(UserError, match=r"predict\.methods: .* is unknown\. Choose from fp,") as e:
        named((name,), "accuracy", 0.05)
    assert "powers_of_scale" in str(e.value) and "\n" not in str(e.value)


def test_two_stages_are_not_offered_for_losses():
    with pytest.raises(UserError, match="Choose from fp") as error:
        named(("gold/powers_of_scale/sigmoid",), "bits_per_byte", 0.05)
    assert "write" not in str(error.value)


def test_the_emergence_threshold_reaches_every_filter():
    name = "loss/power_of_compute/line/improving"
    methods = named(("flp", name), "accuracy", 0.2)
    assert [method.emergence for method in methods.values()] == [0.2, 0.2]


@pytest.mark.parametrize("name", list(METHODS))
def test_a_run_of_weight_0_is_left_out_of_both_stages(name, noisy):
    observations = observed(small_runs(noisy))
    runs = len(observations.names)
    weights = np.ones((2, runs))
    weights[1, 4] = 0
    method = named((name,), "accuracy", 0.05)[name]
    both = method.fit(observations, weights).predict([TARGET])[:, 0]
    keep = np.arange(runs) != 4
    without = method.fit(observations.of_runs(keep), weights[:1, keep]).predict([TARGET])[0, 0]
    assert abs(both[1] - without) < 0.1 * abs(both[0] - without)


@pytest.mark.parametrize("name", list(METHODS))
def test_names_and_order_change_nothing(name, noisy):
    table = noisy
    options = PredictOptions(methods=(name,), resamples=20)
    one = predict_table(table, options).predictions
    random = np.random.default_rng(0)
    names = table["run_id"].unique()
    new = dict(
        zip(names, random.permutation([f"other {i}" for i in range(len(names))]), strict=True)
    )
    shuffled = table.assign(run_id=table["run_id"].map(new)).sample(frac=1, random_state=0)
    other = predict_table(shuffled.reset_index(drop=True), options).predictions
    assert other["target"].iloc[0] == new[planted_runs.TARGET]
    for column in ("predicted", "low_90", "high_90", "low_50"):
        assert one[column].iloc[0] == pytest.approx(other[column].iloc[0], rel=1e-6), column


def test_both_stages_use_the_same_resample(noisy):
    """Row b of a prediction is the second stage's row b at the first stage's row b."""
    observations = observed(small_runs(noisy))
    weights = run_weights(len(observations.names), 5, 0)
    fit = METHODS["ladder"].fit(observations, weights)
    assert isinstance(fit, TwoStageFit)
    draws = fit.predict([TARGET])[:, 0]
    for b in range(1, 6):
        alone = METHODS["ladder"].fit(observations, np.stack([weights[b], weights[b]]))
        assert isinstance(alone, TwoStageFit)
        loss = alone.losses[0].fit.predict(scale_of([TARGET]))[1]
        assert draws[b] == pytest.approx(alone.score.fit.predict({"loss": loss})[1, 0], rel=1e-3)
    assert np.ptp(draws) > 1e-4


def test_the_default_uses_the_routes_that_the_table_allows():
    table = small_runs(planted_runs.table())
    task = table["kind"] == "task"

    def routes(part: pd.DataFrame) -> list[str]:
        observations = observed(part)
        found = METHODS["lossline"].fit(observations, np.ones((1, len(observations.names))))
        assert not isinstance(found, Refusal), found
        return [stage.fit.form.name + " of " + stage.name for stage in found.stages]

    assert isinstance(METHODS["lossline"], Consensus)
    assert len(routes(table)) == 5
    without_gold = table.assign(bits_per_byte=np.nan)
    assert [r.split(" of ", 1)[1] for r in routes(without_gold)] == [
        "loss of loss",
        "score",
        "direct",
    ]
    assert routes(table[task].reset_index(drop=True))[0] == "powers_of_scale of loss of gold"
    one_size = table.assign(params=1e9)
    assert routes(one_size)[0].startswith("floored_power_of_compute")
    bare = table[task].assign(bits_per_byte=np.nan).reset_index(drop=True)
    assert routes(bare) == ["family_gompertz of direct", "power_of_score of direct"]
