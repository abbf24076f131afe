"""Bits among nats where no sums and no bits per byte give them away."""

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
def test_the_rows_in_bits_are_found_whatever_their_share(share):
    loss, params, tokens = sweep()
    mixed = np.arange(40) < share * 40
    np.testing.assert_array_equal(
        in_bits(np.where(mixed, loss / np.log(2), loss), params, tokens), mixed
    )


@pytest.mark.parametrize("seed", range(20))
def test_sound_losses_raise_no_alarm(seed):
    loss, params, tokens = sweep(noise=0.03, seed=seed)
    assert not in_bits(loss, params, tokens).any()
    assert not in_bits(loss / np.log(2), params, tokens).any()  # all in bits: nothing is mixed


def test_a_run_that_failed_or_too_few_runs_raise_no_alarm():
    loss, params, tokens = sweep()
    loss[3] *= 1.9
    assert not in_bits(loss, params, tokens).any()
    loss[4:6] /= np.log(2)
    assert not in_bits(loss[:11], params[:11], tokens[:11]).any()


@pytest.mark.parametrize("column", ["params", "tokens"])
def test_runs_of_one_size_or_one_length_are_a_curve(column):
    loss, params, tokens = sweep(seed=1)
    params, tokens = (
        (np.full(40, 1e9), tokens) if column == "params" else (params, np.full(40, 2e10))
    )
    loss = 1.7 + 400 * params**-0.34 + 900 * tokens**-0.34
    mixed = np.arange(40) % 3 == 0
    found = in_bits(np.where(mixed, loss / np.log(2), loss), params, tokens)
    np.testing.assert_array_equal(found, mixed)


def test_a_table_says_which_rows_and_keeps_the_others():
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
