"""Bits among nats, without sums or bits per byte that show them."""

import numpy as np
import pytest

from lossline.tables import exclude_bad_rows
from lossline.tables.frames import from_rows
from lossline.tables.units import in_bits


def sweep(count=40, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    params, tokens = 10 ** rng.uniform(7, 9.5, count), 10 ** rng.uniform(9, 11, count)
    loss = 1.7 + 400 * params**-0.34 + 900 * tokens**-0.34
    return loss * np.exp(noise * rng.standard_normal(count)), params, tokens


@pytest.mark.parametrize("share", [0.03, 0.1, 0.4, 0.5, 0.9])
def test_rows_in_bits_are_found_at_any_share(share):
    loss, params, tokens = sweep()
    mixed = np.arange(40) < share * 40
    np.testing.assert_array_equal(
        in_bits(np.where(mixed, loss / np.log(2), loss), params, tokens), mixed
    )


@pytest.mark.parametrize("seed", range(20))
def test_valid_losses_give_no_false_alarm(seed):
    loss, params, tokens = sweep(noise=0.03, seed=seed)
    assert not in_bits(loss, params, tokens).any()
    assert not in_bits(loss / np.log(2), params, tokens).any()  # all in bits: nothing is mixed


def test_failed_run_or_too_few_runs_give_no_false_alarm():
    loss, params, tokens = sweep()
    loss[3] *= 1.9
    assert not in_bits(loss, params, tokens).any()
    loss[4:6] /= np.log(2)
    assert not in_bits(loss[:11], params[:11], tokens[:11]).any()


@pytest.mark.parametrize("column", ["params", "tokens"])
def test_runs_of_one_size_or_one_length_are_compared_on_a_curve(column):
    loss, params, tokens = sweep(seed=1)
    params, tokens = (
        (np.full(40, 1e9), tokens) if column == "params" else (params, np.full(40, 2e10))
    )
    loss = 1.7 + 400 * params**-0.34 + 900 * tokens**-0.34
    mixed = np.arange(40) % 3 == 0
    found = in_bits(np.where(mixed, loss / np.log(2), loss), params, tokens)
    np.testing.assert_array_equal(found, mixed)


def test_table_excludes_only_the_rows_in_bits():
    loss, params, tokens = sweep()
    loss[[2, 7]] /= np.log(2)
    rows = [
        {"run_id": f"run{i}", "step": 1, "eval_set": "c4", "kind": "validation", "source": "me",
         "params": int(params[i]), "tokens": int(tokens[i]), "loss": loss[i]}
        for i in range(40)
    ]  # fmt: skip
    table, problems = exclude_bad_rows(from_rows(rows))
    assert [p.position for p in problems] == [2, 7]
    assert "nats are mixed with bits" in problems[0].line("mine.csv")
    assert list(table.index[table["status"] == "excluded"]) == [2, 7]
    # What follows from sums is in nats by its making.
    for row in rows:
        row |= {"nats": row["loss"] * 1e4, "target_tokens": 10_000}
    assert not exclude_bad_rows(from_rows(rows))[1]


def optimizers(factor, noise=0.01, seed=0, grow=0.0):
    """Four sizes × three checkpoints of AdamW, and the same of SGD, ``factor`` times as high."""
    rng = np.random.default_rng(seed)
    params, tokens = np.repeat([3e7, 6e7, 1.2e8, 2.4e8], 3), np.tile([1e9, 2e9, 4e9], 4)
    loss = 1.5 + 300 * params**-0.3 + 900 * tokens**-0.32
    both = np.concatenate([loss, factor * (params / 1e8) ** grow * loss])
    rows = [
        {"run_id": f"{name}-{n:.0f}", "step": int(d / 1e6), "eval_set": "c4", "source": "me",
         "kind": "validation", "optimizer": name, "params": n, "tokens": d}
        for name in ("adamw", "sgd") for n, d in zip(params, tokens, strict=True)
    ]  # fmt: skip
    for row, value in zip(rows, both * np.exp(noise * rng.standard_normal(24)), strict=True):
        row["loss"] = value
    return rows


def set_aside(rows):
    table, problems = exclude_bad_rows(from_rows(rows))
    assert all("nats are mixed with bits" in problem.what for problem in problems)
    return list(table.index[table.status == "excluded"])


@pytest.mark.parametrize("factor", [1.3, 1.35, 1.38, 1.44269504, 1.5, 1.6])
@pytest.mark.parametrize(
    "fact", ["optimizer", "schedule", "context_length", "learning_rate", "weight_decay",
             "token_selection", "x_batch", "option.batch_size", None]
)  # fmt: skip
def test_runs_that_differ_in_a_fact_are_not_compared(factor, fact):
    for seed in range(3):
        rows = optimizers(factor, seed=seed)
        for row in rows:
            sgd = row.pop("optimizer") == "sgd"
            if fact in ("optimizer", "schedule", "token_selection", "option.batch_size"):
                row[fact] = "b" if sgd else "a"
            elif fact is not None:
                row[fact] = 2 if sgd else 1
        if fact is not None or factor != 1.44269504:
            assert set_aside(rows) == []
        else:  # nothing recorded, and exactly a unit
            assert set_aside(rows) == list(range(12, 24))


@pytest.mark.parametrize("factor", [1.38, 1.44269504])
def test_row_in_bits_is_found_among_runs_that_differ_in_a_fact(factor):
    rows = optimizers(factor, noise=0.003)
    rows[4]["loss"] /= np.log(2)
    assert set_aside(rows) == [4]


def test_step_whose_height_changes_with_size_is_not_a_unit():
    for seed in range(5):
        rows = optimizers(1.45, seed=seed, grow=0.05)
        for row in rows:
            del row["optimizer"]
        assert set_aside(rows) == []


def test_unrecorded_tokenizers_may_differ():
    rows = optimizers(1.0)
    for place, row in enumerate(rows):
        row["bits_per_byte"] = row["loss"] / np.log(2) / (3.0 if place < 12 else 3.0 / np.log(2))
    assert set_aside(rows) == []
    rows[13]["loss"] /= np.log(2)  # within one run it is a unit
    assert set_aside(rows) == [13]
