"""Every question about a planted table: intervals in use, picks that make sense, messages."""

import dataclasses
import itertools

import numpy as np
import planted_sweeps
import pytest

from lossline.attribution import AttributionOptions, attribute
from lossline.design import Candidate, DesignOptions, Question, Target, propose
from lossline.design.mixtures import mixture_runs
from lossline.errors import UserError
from lossline.lines.fitting import LineOptions, fit_lines
from lossline.mixtures.process_law import ProcessLaw
from lossline.prediction import PredictOptions, predict_table
from lossline.tables.frames import from_rows

BUDGET = 2e19
LINE = Target(
    question=Question.LINE, x_set="own", y_set="task", groups=("web",), params=2e9, tokens=4e10
)
PREDICTION = Target(
    question=Question.PREDICTION, y_set="own", groups=("web",), params=2e9, tokens=4e10
)
TRANSLATION = Target(
    question=Question.TRANSLATION, x_set="own", y_set="own", groups=("web", "code"), params=2e9,
    tokens=4e10,
)  # fmt: skip


@pytest.fixture(scope="module")
def sweep():
    return planted_sweeps.table()


def few_of_code(table):
    """The table with only the two smallest sizes of code."""
    large = (table["pretraining_data"] == "code") & (table["params"] > 5e7)
    return table[~large]


def test_interval_of_a_line_is_the_lines_own(sweep):
    plan = propose(
        sweep, dataclasses.replace(LINE, params=None, tokens=None, loss=2.4), budget=BUDGET
    )
    web = sweep[sweep["pretraining_data"] == "web"]
    (line,) = fit_lines(web, x_sets=["own"], y_sets=["task"], options=LineOptions(resamples=200))
    low, high = line.interval(2.4)
    assert (plan.now.low, plan.now.high) == (float(low), float(high))


def test_interval_of_a_prediction_is_that_of_predict(sweep):
    plan = propose(sweep, PREDICTION, budget=BUDGET)
    web = sweep[sweep["pretraining_data"] == "web"]
    options = PredictOptions(
        tasks=("own",), metric="loss", points=((2e9, 4e10),), methods=("lossline",), resamples=200
    )
    (row,) = predict_table(web, options).predictions.to_dict("records")
    assert plan.now.value == pytest.approx(row["predicted"], rel=1e-9)
    assert plan.now.half_width == pytest.approx((row["high_90"] - row["low_90"]) / 2, rel=1e-9)


@pytest.mark.parametrize("target", [LINE, PREDICTION, TRANSLATION])
def test_plan_spends_at_most_the_budget_and_each_run_narrows_the_interval(sweep, target):
    table = few_of_code(sweep) if target is TRANSLATION else sweep
    plan = propose(table, target, budget=BUDGET)
    assert plan.picks
    assert sum(pick.candidate.flops for pick in plan.picks) <= BUDGET * (1 + 1e-9)
    widths = [plan.now.half_width, *(pick.half_width for pick in plan.picks)]
    assert all(after <= before for before, after in itertools.pairwise(widths))
    assert sum(pick.share for pick in plan.picks) == pytest.approx(1)
    # A plan of fewer runs may shrink the interval by 2% less.
    assert plan.picks[-1].half_width < 1.03 * plan.largest_first[-1].half_width
    best = plan.candidates.iloc[0]
    assert best["gain_per_flop"] == plan.candidates["gain_per_flop"].max()


def test_plan_spends_its_budget_and_says_which_runs_bring_nearly_all(sweep):
    plan = propose(sweep, PREDICTION, budget=BUDGET)
    left = BUDGET - sum(pick.candidate.flops for pick in plan.picks)
    assert left < 0.1 * BUDGET
    share = np.cumsum([pick.share for pick in plan.picks])
    count = int(np.argmax(share >= 0.95)) + 1
    assert count < len(plan.picks)
    (note,) = [note for note in plan.notes if "of the expected gain" in note]
    assert note.startswith("The first run brings" if count == 1 else f"The first {count} runs")


def test_runs_beyond_the_fitted_ones_are_picked_for_a_far_target(sweep):
    plan = propose(sweep, PREDICTION, budget=BUDGET)
    largest = sweep["flops"].max()
    assert max(pick.candidate.flops for pick in plan.picks) >= 2 * largest


def test_same_table_gives_the_same_plan(sweep):
    one, other = (
        propose(table, LINE, budget=BUDGET)
        for table in (sweep, sweep.sample(frac=1, random_state=0))
    )
    assert [p.candidate for p in one.picks] == [p.candidate for p in other.picks]


def test_run_of_the_target_without_partner_brings_one_of_the_source(sweep):
    table = few_of_code(sweep)
    beyond = Candidate(
        params=3e8, tokens=6e9, flops=6 * 3e8 * 6e9, facts={"pretraining_data": "code"}
    )
    beside = Candidate(
        params=1.6e8, tokens=6.4e9, flops=6 * 1.6e8 * 6.4e9, facts={"pretraining_data": "code"}
    )
    options = DesignOptions(repeats=1)
    plan = propose(table, TRANSLATION, budget=1e20, candidates=[beyond], options=options)
    assert [p.candidate.facts["pretraining_data"] for p in plan.picks] == ["web", "code"]
    # It changes nothing; both numbers are sums, of another order.
    assert plan.picks[0].half_width == pytest.approx(plan.now.half_width, rel=1e-12)
    plan = propose(table, TRANSLATION, budget=1e20, candidates=[beside], options=options)
    assert [p.candidate.facts["pretraining_data"] for p in plan.picks] == ["code"]
    plan = propose(table, TRANSLATION, budget=1.5 * beyond.flops, candidates=[beyond])
    assert plan.picks == ()
    assert "within the budget" in plan.halving_reason


FACTOR = Target(
    question=Question.FACTOR, x_set="wiki", y_set="books", factor="architecture",
    levels=("llama", "mamba"),
)  # fmt: skip


def runs_of_both(tokens):
    """A candidate of either architecture at each number of tokens, all of one cost."""
    return [
        Candidate(params=4e7, tokens=float(d), flops=1e17, facts={"architecture": level})
        for level in FACTOR.levels
        for d in tokens
    ]


def test_level_with_fewer_runs_is_repeated_at_equal_noise():
    table = planted_sweeps.factor_table({"llama": 12, "mamba": 4})
    candidates = runs_of_both(np.geomspace(2e8, 3.2e9, 12))
    plan = propose(table, FACTOR, budget=5.1e17, candidates=candidates)
    assert len(plan.picks) == 5
    assert {pick.candidate.facts["architecture"] for pick in plan.picks} == {"mamba"}
    found = attribute(
        table, AttributionOptions(x_set="wiki", y_sets=("books",), alpha=0.1, resamples=0)
    )
    effect = found.factor("architecture").nats
    assert plan.now.half_width == pytest.approx((effect.move.high - effect.move.low) / 2, rel=1e-6)


def test_move_spreads_as_much_less_as_expected_when_the_runs_are_made():
    moves, planned = [], []
    for seed in range(30):
        whole = planted_sweeps.factor_table({"llama": 10, "mamba": 10}, seed=seed)
        late = (whole["architecture"] == "mamba") & ~whole["run_id"].str.contains("mamba [0369]")
        made = whole[late].drop_duplicates("run_id")["tokens"]
        candidates = [c for c in runs_of_both(made) if c.facts["architecture"] == "mamba"]
        options = DesignOptions(repeats=1)
        before = propose(whole[~late], FACTOR, budget=1e20, candidates=candidates, options=options)
        after = propose(whole, FACTOR, budget=1e20, candidates=candidates, options=options)
        assert len(before.picks) == len(candidates) == 6
        planned.append(before.picks[-1].half_width / before.now.half_width)
        moves.append((before.now.value, after.now.value))
    realised = np.std(moves, axis=0)
    assert np.ptp(planned) < 1e-9
    # The standard error of a standard deviation is 1 / sqrt(2 n); the two are correlated.
    assert realised[1] / realised[0] == pytest.approx(planned[0], abs=0.1)
    assert planned[0] < 0.85


def swarm_table(count=40, seed=0):
    """Runs of one size on mixtures of three sources."""
    random = np.random.default_rng(seed)
    rows = []
    for i, shares in enumerate(random.dirichlet(np.ones(3), count)):
        loss = 2 + 0.5 * (shares[0] + 0.05) ** -0.3 + 0.002 * random.normal()
        rows.append(
            {
                "run_id": f"run {i}", "params": 1e6, "tokens": 1e8, "flops": 6e14, "step": 1,
                "eval_set": "web", "kind": "validation", "loss": loss,
                **{f"share.{c}": s for c, s in zip("abc", shares, strict=True)},
            }
        )  # fmt: skip
    return from_rows(rows)


MIXTURE = Target(question=Question.PREDICTION, y_set="web", shares={"a": 0.02, "b": 0.9, "c": 0.08})


def test_mixtures_near_the_one_asked_about_are_picked():
    table = swarm_table()
    plan = propose(table, MIXTURE, budget=3.1 * 6e14)
    asked = np.array([0.02, 0.9, 0.08])
    away = [
        np.abs(np.array([float(p.candidate.facts[f"share.{c}"]) for c in "abc"]) - asked).max()
        for p in plan.picks
    ]
    known = np.abs(table[["share.a", "share.b", "share.c"]].to_numpy() - asked).max(axis=1)
    assert min(away) < np.median(known) / 2
    assert plan.picks[-1].half_width < plan.now.half_width


def test_covariance_of_the_process_is_what_a_further_run_leaves():
    runs = mixture_runs(swarm_table(), MIXTURE)
    fit = ProcessLaw().fit(runs)
    asked = np.array([[0.02, 0.9, 0.08], [0.05, 0.85, 0.10]])
    covariance, noise = fit.covariance(asked, "web")
    np.testing.assert_allclose(
        np.sqrt(np.diag(covariance) + noise), fit.standard_errors(asked)[:, 0], rtol=1e-9
    )
    expected = covariance[0, 0] - covariance[0, 1] ** 2 / (covariance[1, 1] + noise)
    predicted = float(np.log(fit.predict(asked[1:])[0, 0]))
    more = dataclasses.replace(
        fit,
        shares=np.vstack([fit.shares, asked[1:]]),
        logs=np.vstack([fit.logs, [[predicted]]]),
        weights=np.append(fit.weights, 1.0),
    )
    left, _ = more.covariance(asked[:1], "web")
    assert left[0, 0] == pytest.approx(expected, rel=0.1)
    assert expected < 0.95 * covariance[0, 0]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        (LINE, {"budget": 1.0}, "no candidate costs so little"),
        (LINE, {"budget": float("nan")}, "above 0"),
        (dataclasses.replace(LINE, groups=("wbe",)), {}, "target.groups"),
        (dataclasses.replace(LINE, groups=()), {}, "1 needed"),
        (dataclasses.replace(LINE, params=None, tokens=None), {}, "at a loss or at a model"),
        (dataclasses.replace(LINE, tokens=None), {}, "params needs tokens"),
        (dataclasses.replace(LINE, y_set="tsak"), {}, "not in the table"),
        (dataclasses.replace(PREDICTION, params=None, tokens=None), {}, "needs a model"),
        (dataclasses.replace(TRANSLATION, groups=("web",)), {}, "2 needed"),
        (dataclasses.replace(FACTOR, factor="architecure"), {}, "target.factor"),
    ],
)
def test_questions_that_do_not_fit_the_table_are_refused(sweep, target, options, message):
    with pytest.raises(UserError, match=message):
        propose(sweep, target, **{"budget": BUDGET, **options})


def test_mixture_must_be_named():
    with pytest.raises(UserError, match="shares: the runs"):
        propose(swarm_table(), dataclasses.replace(MIXTURE, shares={}), budget=1e20)


def test_plan_says_that_the_number_of_runs_ends_it(sweep):
    plan = propose(sweep, LINE, budget=BUDGET, options=DesignOptions(most_runs=1))
    assert len(plan.picks) == 1
    assert any("ends at run 1 " in note for note in plan.notes)
