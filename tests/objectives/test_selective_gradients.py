"""Loss and gradients of a selective step equal the definition, with full logits and autodiff.

Only the selected tokens count, divided by their number; no gradient flows through the selection.
"""

import functools
from dataclasses import replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.families import CONFIGS

from lossline.objectives.options import Scope, Score
from lossline.objectives.plain import PlainLoss
from lossline.objectives.selective import SelectiveLoss
from lossline.sharding import MeshOptions, batch_sharding, make_mesh, make_rules
from lossline.training.optimizer import AdamW
from lossline.training.step import Trainer
from objectives.table_model import expected_choice

MODEL = replace(CONFIGS["llama"], vocab_multiple=8)  # 61 tokens and 3 columns of padding
ROWS, LENGTH, Z_LOSS, SHARE = 16, 12, 1e-2, "0.6"
MESHES = {
    "one": (MeshOptions(data=1), 1),
    "data": (MeshOptions(data=8), 8),
    "all": (MeshOptions(data=2, fsdp=2, tensor=2), 8),
    "sequence": (MeshOptions(data=2, sequence=2, tensor=2), 8),
}


@functools.cache
def make_trainer(mesh, microbatches=1, score=None, scope=Scope.BATCH, share=SHARE):
    """Return a trainer; plain without a score."""
    options, devices = MESHES[mesh]
    common = {"vocab_size": MODEL.vocab_size, "z_loss": Z_LOSS}
    if score is None:
        objective = PlainLoss(**common)
    else:
        objective = SelectiveLoss(
            share=Fraction(share), score=score, scope=scope, one_device=devices == 1, **common
        )
    return Trainer(
        model=MODEL,
        objective=objective,
        optimizer=AdamW(),
        mesh=make_mesh(options, devices=jax.devices()[:devices]),
        rules=make_rules(),
        microbatches=microbatches,
    )


@pytest.fixture(scope="module")
def params():
    """Parameters far from their first values, as arrays of NumPy."""
    fresh = make_trainer("one").init(jax.random.key(0))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), fresh)


@pytest.fixture(scope="module")
def batch():
    """Rows of two documents with padding, reference nats of which some are unknown."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(0, MODEL.vocab_size, (ROWS, LENGTH + 1), np.int32)
    filled = rng.integers(5, LENGTH + 1, ROWS)[:, None]
    reference = rng.normal(4, 1, (ROWS, LENGTH)).astype(np.float16)
    reference[rng.random((ROWS, LENGTH)) < 0.1] = np.nan
    return {
        "inputs": tokens[:, :-1],
        "targets": tokens[:, 1:],
        "weights": (np.arange(LENGTH) < filled).astype(np.float32),
        "segment_ids": 1 + (np.arange(LENGTH) >= filled // 2).astype(np.int32),
        "reference": reference,
        "selected": rng.random((ROWS, LENGTH)) < 0.6,
    }


def measured(params, batch):
    """Return nats and logsumexp of every target from all logits."""
    module = make_trainer("one").merge(params)
    logits = module(batch["inputs"], batch["segment_ids"]).astype(jnp.float32)
    logsumexp = jax.nn.logsumexp(logits, axis=-1)
    return logsumexp - jnp.take_along_axis(logits, batch["targets"][..., None], -1)[
        ..., 0
    ], logsumexp


@jax.jit
def definition(params, batch, chosen):
    """Return Rho-1's equation 4 with the z-loss on the selected tokens, and its gradients."""

    def loss(params):
        nats, logsumexp = measured(params, batch)
        return jnp.sum(chosen * (nats + Z_LOSS * logsumexp**2)) / jnp.sum(chosen)

    return jax.grad(loss)(params)


def run(trainer, params, batch):
    """Return the gradients of a step and its metrics by name."""
    needed = {"inputs", "targets", "weights", "segment_ids"}
    objective = trainer.objective
    if isinstance(objective, SelectiveLoss):
        needed |= {"reference"} if objective.score is Score.EXCESS_LOSS else set()
        needed |= set() if objective.score.needs_current_model else {"selected"}
    placed = {name: jax.device_put(batch[name], batch_sharding(trainer.mesh)) for name in needed}
    params = jax.device_put(params, trainer.shardings["params"])
    with jax.set_mesh(trainer.mesh):
        gradients, metrics = jax.jit(trainer.gradients)(params, placed)
    named = zip(objective.metric_names, np.asarray(metrics).tolist(), strict=True)
    return jax.tree.map(np.asarray, gradients), dict(named)


def assert_equal(found, expected, bound):
    """Compare each parameter's gradient, relative to its norm."""
    for got, want in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(got - want) <= bound * np.linalg.norm(want)


def choice(params, batch, score, scope, microbatches):
    """Return the set of the definition and its scores; no score is near the threshold."""
    nats = np.asarray(jax.jit(measured)(params, batch)[0], np.float64)
    candidates = batch["weights"] > 0
    if not score.needs_current_model:
        return candidates & batch["selected"], nats
    scores = nats
    if score is Score.EXCESS_LOSS:
        scores = nats - batch["reference"].astype(np.float64)
        candidates &= np.isfinite(scores)
    chosen = expected_choice(scores, candidates, SHARE, scope, microbatches)
    if scope is Scope.BATCH:
        assert scores[chosen].min() - scores[candidates & ~chosen].max() > 1e-4
    return chosen, scores


RANKED = [
    (Score.EXCESS_LOSS, Scope.BATCH),
    (Score.EXCESS_LOSS, Scope.MICROBATCH),
    (Score.EXCESS_LOSS, Scope.SEQUENCE),
    (Score.CURRENT_LOSS, Scope.BATCH),
    (Score.REFERENCE_LOSS, Scope.BATCH),
]
CASES = [(*ranked, "one", 1) for ranked in RANKED]
CASES += [(*ranked, "data", 2) for ranked in RANKED]
CASES += [(Score.EXCESS_LOSS, Scope.BATCH, *where) for where in (("one", 4), ("all", 2))]
CASES += [(Score.EXCESS_LOSS, Scope.BATCH, *where) for where in (("all", 1), ("sequence", 1))]
CASES += [(Score.EXCESS_LOSS, Scope.SEQUENCE, "sequence", 2)]


@pytest.mark.parametrize(("score", "scope", "mesh", "microbatches"), CASES)
def test_the_step_equals_the_definition(params, batch, score, scope, mesh, microbatches):
    chosen, scores = choice(params, batch, score, scope, microbatches)
    gradients, metrics = run(make_trainer(mesh, microbatches, score, scope), params, batch)
    assert_equal(gradients, definition(params, batch, chosen), 2e-5)
    assert metrics["selected_tokens"] == chosen.sum()
    if score is Score.EXCESS_LOSS:
        assert metrics["mean_excess"] == pytest.approx(scores[chosen].mean(), rel=1e-4, abs=1e-5)


def test_the_comparison_sees_one_other_token(params, batch):
    """The bound of the test above is tight: one exchanged token is far outside of it."""
    chosen, _ = choice(params, batch, Score.EXCESS_LOSS, Scope.BATCH, 1)
    other = chosen.copy()
    (out, *_), (into, *_) = np.argwhere(chosen), np.argwhere(~chosen & (batch["weights"] > 0))
    other[tuple(out)], other[tuple(into)] = False, True
    with pytest.raises(AssertionError):
        assert_equal(definition(params, batch, other), definition(params, batch, chosen), 1e-3)


WHOLE = [(mesh, 2, scope) for mesh in ("one", "data") for scope in Scope]
WHOLE += [("one", 1, Scope.BATCH), ("all", 1, Scope.BATCH)]


@pytest.mark.parametrize(("mesh", "microbatches", "scope"), WHOLE)
def test_a_share_of_one_equals_plain_training(params, batch, mesh, microbatches, scope):
    known = {**batch, "reference": np.nan_to_num(batch["reference"], nan=4.0)}
    selective = make_trainer(mesh, microbatches, Score.EXCESS_LOSS, scope, "1")
    found, metrics = run(selective, params, known)
    expected, plain = run(make_trainer(mesh, microbatches), params, known)
    assert abs(metrics["loss"] - plain["loss"]) <= 1e-6 * plain["loss"]
    assert abs(metrics["selected_loss"] - plain["loss"]) <= 1e-6 * plain["loss"]
    assert metrics["selected_share"] == 1
    assert_equal(found, expected, 1e-6)


def test_no_gradient_flows_through_the_scores(params, batch):
    """The reference affects only which tokens are selected."""
    trainer = make_trainer("one", 1, Score.EXCESS_LOSS)
    given = {name: jnp.asarray(array) for name, array in batch.items() if name != "selected"}
    total = trainer.objective.total(given, lambda array: array[None])

    def loss(reference):
        objective, model = trainer.objective, trainer.merge(params)
        return objective(model, {**given, "reference": reference}, total)[0]

    reference = jnp.nan_to_num(given["reference"].astype(jnp.float32))
    assert not np.any(jax.jit(jax.grad(loss))(reference))


# --- scores recomputed under another split -------------------------------------------------------


def nats_of(mesh, microbatches, params, batch):
    """Return the nats that a step on a mesh ranks by."""
    trainer = make_trainer(mesh, microbatches, Score.EXCESS_LOSS)
    names = ("inputs", "targets", "weights", "segment_ids")
    placed = {name: jax.device_put(batch[name], batch_sharding(trainer.mesh)) for name in names}
    with jax.set_mesh(trainer.mesh):
        params = jax.device_put(params, trainer.shardings["params"])
        return np.asarray(jax.jit(trainer._nats)(params, placed))


def test_only_tokens_within_rounding_of_the_threshold_change_with_the_split(params, batch):
    """Half of the excess losses are planted at one value, so that rounding orders them."""
    splits = [("one", 1), ("one", 4), ("data", 1), ("all", 2), ("sequence", 1)]
    nats = {split: nats_of(*split, params, batch) for split in splits}
    first = nats["one", 1]
    rounding = max(np.abs(other - first).max() for other in nats.values())
    assert 0 < rounding < 2e-6 * first.max()
    candidates = batch["weights"] > 0
    planted = np.random.default_rng(3).random(first.shape) < 0.5
    reference = np.where(planted, first, batch["reference"].astype(np.float32) - 1)
    candidates &= np.isfinite(reference)
    chosen = {
        split: expected_choice(np.float64(found - reference), candidates, SHARE, Scope.BATCH)
        for split, found in nats.items()
    }
    scores = np.float64(first - reference)
    threshold = scores[chosen["one", 1]].min()
    near = candidates & (np.abs(scores - threshold) <= 2 * rounding)
    changed = {split: chosen["one", 1] ^ other for split, other in chosen.items()}
    counts = {split: int(other.sum()) for split, other in changed.items()}
    assert 0 < max(counts.values()) <= near.sum() < candidates.sum(), counts
    for other in changed.values():
        assert not np.any(other & ~near)
