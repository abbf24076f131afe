"""From score tables and loss tables to the matrix of models, domains and benchmarks."""

import dataclasses

import numpy as np
import pytest

from lossline import tables
from lossline.errors import UserError
from lossline.selection import ScoreMatrix, estimate, score_matrix
from lossline.tables import scores


def row(model, name, value, *, kind="domain", measure="bits_per_byte", **more):
    return {"model": model, "kind": kind, "name": name, "measure": measure, "value": value, **more}


def failed(model, name, **more):
    return row(model, name, None, status="failed", message="out of memory", **more)


def table_of(*rows):
    return scores.from_rows(rows)


def small():
    return [
        row(model, domain, value, family=family, step=10)
        for model, family, first in (("a", "one", 1.0), ("b", "one", 2.0), ("c", None, 3.0))
        for domain, value in (("web", first), ("code", first**2))
    ]


def accuracy(model, value, name="arc", measure="accuracy"):
    return row(model, name, value, kind="benchmark", measure=measure)


def test_accuracy_becomes_error_and_families_are_kept():
    matrix = score_matrix(table_of(*small(), accuracy("a", 0.75), accuracy("b", 0.5)))
    assert matrix.models == ("a", "b", "c")
    assert matrix.families == ("one", "one", "c")
    assert matrix.domains == ("web", "code")
    np.testing.assert_array_equal(matrix.losses, [[1, 1], [2, 4], [3, 9]])
    np.testing.assert_array_equal(matrix.errors[:, 0], [0.25, 0.5, np.nan])
    assert matrix.measures == ("error",)
    assert matrix.notes() == (
        "Benchmark arc: 1 of 3 models have no score and are left out of it: c.",
    )


def test_only_the_last_step_counts_also_where_it_failed():
    rows = [
        *(one for one in small() if one["model"] != "a"),
        row("a", "web", 9.0, step=10), row("a", "code", 9.0, step=10),
        row("a", "web", 1.5, step=20), failed("a", "code", step=20),
        accuracy("a", 0.1), accuracy("b", 0.2), accuracy("c", 0.4),
    ]  # fmt: skip
    for one in rows:
        one["family"] = None
    matrix = score_matrix(table_of(*rows))
    losses = dict(zip(matrix.models, matrix.losses.tolist(), strict=True))
    assert losses["a"][0] == 1.5 and np.isnan(losses["a"][1])
    assert matrix.notes()[0].startswith("1 losses are missing, in 1 of 2 domains")


def test_benchmarks_of_another_step_than_the_domains_are_missing():
    late = [accuracy(model, 0.5 + k / 10) | {"step": 20} for k, model in enumerate("abc")]
    same = [accuracy("a", 0.25) | {"step": 10}]
    for rows in ([*small(), *late, *same], [*same, *late, *small()]):
        for one in rows:
            one["family"] = None
        matrix = score_matrix(table_of(*rows))
        found = dict(zip(matrix.models, matrix.errors[:, 0], strict=True))
        assert found["a"] == 0.75 and np.isnan([found["b"], found["c"]]).all()
        assert any("2 of 3 models have no score" in note for note in matrix.notes())
    for one in rows:
        one["step"] = None if one["kind"] == "domain" else one["step"]
    assert not np.isnan(score_matrix(table_of(*rows)).errors).any()


def test_sets_of_a_loss_table_are_benchmarks_at_the_scored_step():
    def loss(run, step, value, name="pubmed", **more):
        return {"run_id": run, "step": step, "eval_set": name, "kind": "task", "architecture": "x",
                "bits_per_byte": value, "status": "ok", **more}  # fmt: skip

    losses = tables.from_rows([
        loss("a", 10, 0.5), loss("a", 20, 0.1),  # the pool was scored at step 10
        loss("b", 10, 0.6),
        loss("c", 10, None, status="failed", message="NaN"),
        loss("other", 10, 0.9), loss("other", 10, 0.9, name="empty"),
    ])  # fmt: skip
    matrix = score_matrix(table_of(*small()), losses)
    assert matrix.benchmarks == ("pubmed", "empty")
    np.testing.assert_array_equal(matrix.errors[:, 0], [0.5, 0.6, np.nan])
    assert np.isnan(matrix.errors[:, 1]).all()
    assert matrix.measures == ("bits_per_byte", "bits_per_byte")
    only = score_matrix(table_of(*small(), accuracy("a", 0.5)), losses, benchmarks=["arc"])
    assert only.benchmarks == ("arc",)
    with pytest.raises(UserError, match="benchmark 'pubmed' is in the score table and in the loss"):
        score_matrix(table_of(*small(), accuracy("a", 0.5, name="pubmed")), losses)
    with pytest.raises(UserError, match=r"benchmark 'pubmet'; did you mean 'pubmed'\?; choose"):
        score_matrix(table_of(*small()), losses, benchmarks=["pubmet"])


def test_domains_and_benchmarks_without_a_rank_are_named_and_get_none():
    losses = np.array([[1.0, 5, np.nan, 1], [2, 5, np.nan, np.nan], [3, 5, np.nan, np.nan]])
    matrix = ScoreMatrix(
        models=("a", "b", "c"), families=("a", "b", "c"), domains=("web", "same", "none", "one"),
        benchmarks=("arc", "flat"), losses=losses, errors=np.array([[1.0, 7], [2, 7], [3, 7]]),
    )  # fmt: skip
    notes = " ".join(matrix.notes())
    assert "Benchmark flat: all models have the same score; no domain is ranked by it." in notes
    assert "1 domains are not ranked (all models have the same score): same." in notes
    assert "1 domains are not ranked (no model was scored): none." in notes
    assert "1 domains are not ranked (one model only): one." in notes
    found = estimate(matrix.losses, matrix.errors, "spearmanr")
    np.testing.assert_array_equal(np.isnan(found), [[0, 1], [1, 1], [1, 1], [1, 1]])
    assert found[0, 0] == 1


def test_perplexities_and_errors_are_never_averaged():
    rows = [
        *small(),
        *(accuracy(m, v) for m, v in (("a", 0.9), ("b", 0.8), ("c", 0.7))),
        *(accuracy(m, v, name="piqa") for m, v in (("a", 0.5), ("b", 0.6))),
        *(accuracy(m, v, "lambada", "perplexity") for m, v in (("a", 5.0), ("b", 80.0))),
    ]
    matrix = score_matrix(table_of(*rows))
    assert matrix.measures == ("error", "error", "perplexity")
    mean = matrix.averaged("mean", ["arc", "piqa"])
    assert mean.benchmarks[-1] == "mean" and mean.measures[-1] == "error"
    np.testing.assert_allclose(mean.errors[:, -1], [0.3, 0.3, np.nan])
    with pytest.raises(UserError, match=r"'piqa' \(error\) and 'lambada' \(perplexity\) cannot be"):
        matrix.averaged("mean", ["piqa", "lambada"])
    with pytest.raises(UserError, match="no benchmarks cannot be averaged"):
        matrix.averaged("mean", [])


def test_bad_tables_are_one_line():
    with pytest.raises(UserError, match="no row of kind 'domain'"):
        score_matrix(table_of(accuracy("a", 0.5)))
    with pytest.raises(UserError, match="no benchmark"):
        score_matrix(table_of(*small()))
    mixed = [*small(), row("a", "law", 2.0, measure="loss", family="one", step=10)]
    with pytest.raises(UserError, match="'web' is in bits_per_byte, domain 'law' in loss"):
        score_matrix(table_of(*mixed, accuracy("a", 0.5)))
    good = score_matrix(table_of(*small(), accuracy("a", 0.5)))
    for change, message in (
        ({"losses": good.losses[:2]}, r"shape \(2, 2\), but the names need \(3, 2\)"),
        ({"losses": np.where(good.losses > 8, np.inf, good.losses)}, "infinite for model 'c'"),
        ({"models": ("a", "a", "c")}, "model 'a' occurs twice"),
        ({"families": ("a",)}, "one family per model"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(good, **change)
    with pytest.raises(UserError, match="Score at least 2 models"):
        one = table_of(row("a", "web", 1.0), accuracy("a", 0.5))
        score_matrix(one)
