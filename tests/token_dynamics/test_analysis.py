"""Shares and their intervals, curves, excess, selection frequency and agreement of runs."""

import itertools

import numpy as np
import pytest
from token_dynamics.planted_tokens import curves_of, planted_nats, sample_of

from lossline.token_dynamics.agreement import agreement
from lossline.token_dynamics.analysis import analyze
from lossline.token_dynamics.classes import CLASSES
from lossline.token_dynamics.options import AnalysisOptions
from lossline.token_dynamics.resampling import DocumentBootstrap
from lossline.token_dynamics.selected import selected_tokens

OPTIONS = AnalysisOptions(resamples=300)


def mixed(count=600, *, seed=0):
    """Tokens of all four classes, ten to a document."""
    changes = np.resize([0.0, 1.0, -1.0, 0.05], count)
    level = np.resize([4.0, 3.0, 1.5, 1.0], count)
    return planted_nats(changes, 0.02, seed=seed) + level - 3


def test_shares_curves_and_excess_are_those_of_the_planted_classes():
    nats, documents = mixed(), np.arange(600) // 10
    reference = np.full(600, 2.0)
    found = analyze(
        sample_of(documents), [curves_of(nats)], OPTIONS, reference="r", reference_nats=reference
    )
    fixed = found.classes[found.classes["rule"] == "fixed"].set_index("class")
    assert fixed["share"].tolist() == [0.25] * 4 and fixed["tokens"].tolist() == [150] * 4
    assert found.tokens["class_fixed"].tolist() == list(CLASSES) * 150
    curves = found.curves[found.curves["rule"] == "fixed"].set_index(["class", "step"])
    excess = found.excess[found.excess["rule"] == "fixed"].set_index("class")
    for number, name in enumerate(CLASSES):
        for place, step in enumerate(range(0, 1100, 100)):
            mean = nats[place, number::4].mean()
            row = curves.loc[(name, step)]
            assert row["nats"] == pytest.approx(mean, rel=1e-12)
            assert row["low"] <= mean <= row["high"] and row["high"] - row["low"] < 0.05
            assert row["tokens"] == 64 * step
        assert excess.loc[name, "excess"] == pytest.approx(nats[:, number::4].mean() - 2)
        assert excess.loc[name, "last"] == pytest.approx(nats[-1, number::4].mean() - 2)
    assert curves.loc[("all", 1000), "nats"] == pytest.approx(nats[-1].mean())
    assert excess.loc["all", "selection_frequency"] == pytest.approx(0.6)
    assert found.notes == ()


def test_interval_is_over_documents():
    """Whole documents of one class: the interval is that of 40 units, not of 4000 tokens."""
    rng = np.random.default_rng(1)
    rises = np.repeat(rng.random(40) < 0.5, 100)
    nats = planted_nats(np.where(rises, 1.0, -1.0), 0.01)
    found = analyze(sample_of(np.arange(4000) // 100), [curves_of(nats)], OPTIONS).classes
    row = found[(found["rule"] == "fixed") & (found["class"] == "L→H")].iloc[0]
    width = 2 * 1.96 * (row["share"] * (1 - row["share"]) / 40) ** 0.5
    assert row["high"] - row["low"] == pytest.approx(width, rel=0.2)


def test_intervals_hold_the_true_share_as_often_as_they_say():
    held = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(5, 60, 30)
        documents = np.repeat(np.arange(30), sizes)
        share = np.repeat(rng.beta(2, 3, 30), sizes)  # expected share: 0.4
        member = (rng.random(len(share)) < share).astype(float)[:, None]
        bootstrap = DocumentBootstrap(documents, resamples=300, confidence=0.9, seed=seed)
        found = bootstrap.ratios(member, np.ones_like(member))
        held.append(found.low[0] <= 0.4 <= found.high[0])
    assert 0.83 <= np.mean(held) <= 0.96


def test_resamples_are_the_same_for_the_same_seed_and_blocks(monkeypatch):
    columns = np.random.default_rng(0).random((200, 3))
    arguments = {"resamples": 250, "confidence": 0.9}
    one = DocumentBootstrap(np.arange(200) // 4, seed=1, **arguments)
    whole, drawn = one.sums(columns)
    np.testing.assert_array_equal(drawn, one.sums(columns)[1])
    monkeypatch.setattr("lossline.token_dynamics.resampling._CELLS_AT_ONCE", 700)
    np.testing.assert_allclose(drawn, one.sums(columns)[1], rtol=1e-12)
    np.testing.assert_allclose(whole, columns.sum(axis=0))
    other = DocumentBootstrap(np.arange(200) // 4, seed=2, **arguments)
    assert not np.allclose(drawn, other.sums(columns)[1])


def test_one_document_has_no_interval():
    found = analyze(sample_of(np.zeros(600)), [curves_of(mixed())], OPTIONS)
    assert found.classes["share"].notna().all()
    for table in (found.classes, found.curves):
        assert table[["low", "high"]].isna().all(axis=None)


def test_selection_takes_the_largest_excess_and_the_earlier_of_equal_ones():
    rng = np.random.default_rng(2)
    excess = rng.integers(0, 4, (6, 50)).astype(np.float32)
    found = selected_tokens(excess, 0.3)
    for row, values in zip(found, excess, strict=True):
        order = sorted(range(50), key=lambda i: (-values[i], i))
        assert set(np.flatnonzero(row)) == set(order[:15])
    assert selected_tokens(excess, 1.0).all()
    assert selected_tokens(np.zeros((1, 100)), 0.29).sum() == 29  # 0.29 · 100 rounds below 29


def test_frequency_counts_checkpoints():
    nats = np.full((5, 4), 1.0)
    nats[:, 0], nats[:2, 1], nats[2:, 2] = 9, 5, 5
    found = analyze(
        sample_of([0, 0, 1, 1]), [curves_of(nats)], AnalysisOptions(share=0.5, resamples=100),
        reference="r", reference_nats=np.ones(4),
    )  # fmt: skip
    assert found.tokens["selection_frequency"].tolist() == [1.0, 0.4, 0.6, 0.0]
    assert found.tokens["mean_excess"].tolist() == pytest.approx([8.0, 1.6, 2.4, 0.0])


def test_kappa_is_cohens():
    """The textbook example: 0.7 agree, kappa 0.4."""
    first = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    second = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    bootstrap = DocumentBootstrap(np.arange(50), resamples=300, confidence=0.95, seed=0)
    found = agreement(first, second, bootstrap)
    assert found.value.tolist() == pytest.approx([0.7, 0.4])
    assert (found.low < found.value).all() and (found.value < found.high).all()
    assert agreement(first, first, bootstrap).value.tolist() == [1.0, 1.0]
    assert np.isnan(agreement(0 * first, 0 * first, bootstrap).value[1])


def test_runs_with_the_same_trends_agree_and_unrelated_ones_do_not():
    documents = np.arange(600) // 10
    runs = [curves_of(mixed(seed=1), "a"), curves_of(mixed(seed=2), "b")]
    shuffled = np.random.default_rng(0).permutation(600)
    runs.append(curves_of(mixed(seed=3)[:, shuffled], "c"))
    found = analyze(sample_of(documents), runs, OPTIONS).agreement
    fixed = found[found["rule"] == "fixed"].set_index("runs")["kappa"]
    assert fixed["a and b"] == 1
    assert abs(fixed["a and c"]) < 0.15 and abs(fixed["b and c"]) < 0.15
    pairs = [f"{a} and {b}" for a, b in itertools.combinations("abc", 2)]
    assert found["runs"].tolist() == [*pairs, *pairs, "a", "b", "c"]
    assert found["rule"].tolist()[-1] == "fixed and noise"


def test_bytes_that_are_no_text_by_themselves_are_escaped():
    pieces = [b"a", "é".encode()[:1], "é".encode()[1:], b""]
    sample = sample_of([0] * 4, pieces=pieces, token_ids=np.arange(4, dtype=np.int32))
    found = analyze(sample, [curves_of(mixed(4))], OPTIONS)
    assert found.tokens["text"].tolist() == ["a", "\\xc3", "\\xa9", ""]
    assert found.tokens["mean_excess"].isna().all() and found.excess.empty


def test_uneven_checkpoints_and_dependent_noise_are_told():
    nats = np.cumsum(np.random.default_rng(0).normal(size=(6, 100)), axis=0)
    from lossline.token_dynamics.results import RunCurves

    steps = (0, 1, 2, 4, 8, 16)
    curves = RunCurves(run="run", steps=steps, tokens=steps, nats=nats)
    notes = analyze(sample_of(np.arange(100) // 10), [curves], OPTIONS).notes
    assert "run: checkpoints are 1 to 8 steps apart" in notes[0]
    assert "deviate from the lines alike" in notes[1]
