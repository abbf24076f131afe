"""The best mixture of a planted table is found, within limits, and its bindings train it."""

import re

import gin
import numpy as np
import pandas as pd
import planted_mixture_table
import pytest

from lossline.batches.mixture import Mixture
from lossline.cli.configuration import Verb, build_options
from lossline.cli.optimum_text import optimum_text
from lossline.errors import UserError
from lossline.fits.optimum import best_mixture_of_table
from lossline.mixtures.limits import Limits
from lossline.mixtures.optimum import Pull


@pytest.fixture(scope="module")
def table():
    return planted_mixture_table.table()


def best(table, *targets, **options):
    return best_mixture_of_table(table, dict.fromkeys(targets, 1.0), **{"resamples": 0, **options})


def code(found) -> float:
    return found.optimum.mixture["code"]


def test_planted_optimum_is_found_and_lies_in_its_interval(table):
    found = best(table, "mixed", resamples=10)
    assert code(found) == pytest.approx(planted_mixture_table.BEST_CODE, abs=0.05)
    at = found.optimum.components.index("code")
    assert found.optimum.low[at] <= code(found) <= found.optimum.high[at]
    assert found.optimum.flat_low[at] < code(found) < found.optimum.flat_high[at]
    assert (found.params, found.tokens) == (8e7, 1.6e9)


def test_domain_of_one_component_wants_it_alone_and_the_limit_binds(table):
    found = best(table, "python", limits=Limits(upper={"code": 0.4}))
    assert code(found) == pytest.approx(0.4, abs=1e-3)
    assert found.optimum.free[found.optimum.components.index("code")] > 0.5
    assert any("highest share" in warning for warning in found.optimum.warnings)


def test_cap_by_repetition_uses_the_tokens_of_the_training(table):
    limits = Limits(available={"code": 5e9}, epochs=2)
    found = best(table, "python", params=1e9, tokens=1e11, limits=limits)
    assert code(found) == pytest.approx(0.1, abs=1e-3)


def test_pull_moves_the_optimum_toward_its_mixture(table):
    pulled = best(table, "python", pull=Pull({"web": 0.9, "code": 0.1}, 30.0))
    assert code(pulled) == pytest.approx(0.1, abs=0.02)


def test_optimum_outside_the_mixtures_trained_is_warned_of(table):
    warnings = best(table, "python").optimum.warnings
    assert any("outside the mixtures trained" in warning for warning in warnings)


def test_task_with_accuracies_only_is_a_target(table):
    scored = table.copy()
    task = scored["eval_set"] == "mixed"
    copy = scored[task].assign(eval_set="arc_easy", bits_per_byte=np.nan)
    both = pd.concat([scored, copy], ignore_index=True)
    found = best(both, "arc_easy")
    assert found.measure == "accuracy" and 0 < found.sign * found.optimum.value < 1
    assert code(found) == pytest.approx(planted_mixture_table.BEST_CODE, abs=0.1)
    with pytest.raises(UserError, match="has accuracies only, and mixed losses"):
        best(both, "arc_easy", "mixed")
    unknown = both.assign(eval_set=both["eval_set"].replace({"arc_easy": "puzzle"}))
    with pytest.raises(UserError, match=r"puzzle: .* Bind predict.chance = \{'puzzle': 0.25\}"):
        best(unknown, "puzzle")


def test_printed_bindings_build_the_mixture(table):
    text = optimum_text(best(table, "mixed"), {"web": "stores/web", "code": "stores/code"})
    bindings = [line for line in text.splitlines() if line.startswith("mixture.")]
    built = build_options("mixture", Verb(options=Mixture, run=print), bindings=bindings)
    assert built.components == {"code": "stores/code", "web": "stores/web"}
    assert sum(built.shares.values()) == pytest.approx(1)
    assert "train.store = @mixture()" in text
    gin.clear_config()


def test_text_shows_the_free_optimum_and_what_was_trained(table):
    text = optimum_text(best(table, "wiki", "python", limits=Limits(upper={"code": 0.2})))
    assert "wiki (weight 1), python (weight 1)" in text
    row = next(line for line in text.splitlines() if line.startswith("code"))
    assert re.search(r"0\.000 to 0\.500$", row) and "unknown" in row
    assert "Warning: code is at its highest share, 0.2" in text


@pytest.mark.parametrize(
    ("targets", "options", "expected"),
    [
        (["humaneval"], {}, "target 'humaneval' is unknown"),
        (["wiki"], {"law": "M9"}, "law 'M9' is unknown"),
        (["wiki"], {"limits": Limits(upper={"cod": 0.1})}, "'cod' is unknown"),
        (["wiki"], {"limits": Limits(lower={"code": 0.7, "web": 0.7})}, "no mixture"),
    ],
)
def test_wrong_names_and_limits_are_one_line(table, targets, options, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        best(table, *targets, **options)
    assert "\n" not in str(caught.value)


def test_two_runs_have_no_interval(table):
    two = table[table["run_id"].isin(["n=8e+07 code=0", "n=8e+07 code=0.5"])]
    found = best(two, "wiki", resamples=10)
    assert np.isnan(found.optimum.error)
    assert any("too few to resample" in note for note in found.notes)


def test_interval_of_an_optimum_by_accuracy_refits_both_stages(table):
    scored = table[table["eval_set"] == "mixed"].assign(eval_set="quiz", bits_per_byte=np.nan)
    wild = scored["run_id"].map(
        dict(
            zip(
                scored["run_id"].unique(), np.random.default_rng(0).normal(0, 0.05, 24), strict=True
            )
        )
    )

    def error(rows):
        both = pd.concat([table, rows], ignore_index=True)
        return best(both, "quiz", chance={"quiz": 0.25}, resamples=20).optimum.error

    assert error(scored.assign(accuracy=scored["accuracy"] + wild)) > 3 * error(scored)
