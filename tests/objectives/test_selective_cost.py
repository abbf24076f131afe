"""Cost of a selective step over a plain one: matrix operations, and bytes between devices."""

import re
from collections import Counter
from fractions import Fraction

import jax
import jax.numpy as jnp
import pytest

from lossline.compilation import hlo
from lossline.compilation.collectives import collectives
from lossline.compilation.flops import matmul_flops
from lossline.models import LlamaConfig
from lossline.objectives.options import Scope, Score
from lossline.objectives.plain import PlainLoss
from lossline.objectives.selective import SelectiveLoss
from lossline.ops.backend import compiling_for
from lossline.sharding import MeshOptions, batch_sharding, make_mesh, make_rules
from lossline.training.optimizer import AdamW
from lossline.training.step import Trainer

ROWS, LENGTH, WIDTH, VOCABULARY = 32, 32, 32, 264
MODEL = LlamaConfig(
    vocab_size=VOCABULARY,
    width=WIDTH,
    layers=2,
    heads=4,
    kv_heads=4,
    mlp_width=64,
    context_length=LENGTH,
    activation_dtype="float32",
    attention_implementation="reference",
)
PROJECTION = 2 * ROWS * LENGTH * WIDTH * VOCABULARY  # operations of all logits
ONE = MeshOptions(data=1)
COLUMNS = {Score.EXCESS_LOSS: {"reference": jnp.float16}, Score.RANDOM: {"selected": jnp.bool_}}
QUICK = {"xla_backend_optimization_level": 0}


def traced(mesh, *, microbatches=1, score=None, scope=Scope.BATCH, share="0.6"):
    """Return (trainer, trace of its whole step); the plain step without a score."""
    devices = 1 if mesh is ONE else 8
    common = {"vocab_size": VOCABULARY, "z_loss": 1e-3}
    objective = PlainLoss(**common)
    if score is not None:
        objective = SelectiveLoss(
            share=Fraction(share), score=score, scope=scope, one_device=devices == 1, **common
        )
    trainer = Trainer(
        model=MODEL,
        objective=objective,
        optimizer=AdamW(clip_norm=0.5),
        mesh=make_mesh(mesh, devices=jax.devices()[:devices]),
        rules=make_rules(),
        microbatches=microbatches,
    )
    types = {"inputs": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}
    types |= COLUMNS.get(score, {})
    rows = batch_sharding(trainer.mesh)
    batch = {
        name: jax.ShapeDtypeStruct((ROWS, LENGTH), dtype, sharding=rows)
        for name, dtype in types.items()
    }
    rates = jax.ShapeDtypeStruct((2,), jnp.float32)
    with jax.set_mesh(trainer.mesh), compiling_for("tpu"):
        return trainer, trainer.step.trace(trainer.abstract_state, batch, rates)


def projections(mesh, **selective):
    """Return the operations beyond the plain step, in projections of all tokens."""
    microbatches = selective.get("microbatches", 1)
    plain = matmul_flops(traced(mesh, microbatches=microbatches)[1].jaxpr)
    return (matmul_flops(traced(mesh, **selective)[1].jaxpr) - plain) / PROJECTION


RANKED = [Score.EXCESS_LOSS, Score.CURRENT_LOSS]


@pytest.mark.parametrize("score", RANKED)
@pytest.mark.parametrize("mesh", [ONE, MeshOptions(data=8), MeshOptions(data=2, tensor=4)])
def test_ranking_costs_at_most_one_projection(mesh, score):
    assert projections(mesh, score=score, share="1") <= 1
    assert projections(mesh, score=score) <= 1


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("share", ["0.4", "0.6"])
def test_on_one_device_the_unselected_rows_pay_for_it(share, scope):
    """Three products of selected rows and one of all instead of three of all."""
    saved = 3 - (1 + 3 * float(share))
    rounding = 3 * ROWS / (ROWS * LENGTH)  # a part of a token of every row
    assert 0 < saved <= -projections(ONE, score=Score.EXCESS_LOSS, share=share, scope=scope)
    assert -projections(ONE, score=Score.EXCESS_LOSS, share=share, scope=scope) <= saved + rounding


def test_tokens_chosen_over_the_corpus_cost_nothing():
    for microbatches in (1, 2):
        assert projections(ONE, score=Score.RANDOM, microbatches=microbatches) == 0


@pytest.mark.parametrize("scope", [Scope.MICROBATCH, Scope.SEQUENCE])
def test_approximate_scopes_cost_no_further_forward_pass(scope):
    assert projections(ONE, score=Score.EXCESS_LOSS, scope=scope, microbatches=2) <= 0


def test_an_exact_batch_of_several_microbatches_costs_one_forward_pass():
    """A forward pass is a third of a step; the rest is the same."""
    plain = matmul_flops(traced(ONE, microbatches=2)[1].jaxpr)
    found = matmul_flops(traced(ONE, microbatches=2, score=Score.EXCESS_LOSS)[1].jaxpr)
    assert 1.3 < found / plain <= 4 / 3 + 1e-9


# --- collectives --------------------------------------------------------------------------------

MESHES = {
    "data": (MeshOptions(data=8), 1),
    "data, microbatches": (MeshOptions(data=8), 2),
    "fsdp": (MeshOptions(data=1, fsdp=8), 1),
    "sequence": (MeshOptions(data=2, sequence=4), 1),
    "tensor": (MeshOptions(data=4, tensor=2), 1),
}
# 32 counts of the threshold, the candidates, what is above and equal, ten sums of metrics; XLA may
# add along two axes one after the other.
SCALARS = 2 * 48


def communication(trainer, trace):
    """Return (bytes by kind, number by kind, text of the program)."""
    with jax.set_mesh(trainer.mesh), compiling_for("tpu"):
        text = trace.lower().compile(compiler_options=QUICK).as_text()
    program = hlo.Program.parse(text)
    rows = collectives(program, tuple(trainer.mesh.shape.values()), tuple(trainer.mesh.axis_names))
    kinds = {row.kind for row in rows}
    sent = {kind: sum(row.wire_bytes for row in rows if row.kind == kind) for kind in kinds}
    number = {kind: sum(row.count for row in rows if row.kind == kind) for kind in kinds}
    return sent, number, text


@pytest.mark.parametrize("where", MESHES)
def test_devices_exchange_only_scalars_beyond_plain_training(where):
    mesh, microbatches = MESHES[where]
    plain, plain_number, plain_text = communication(*traced(mesh, microbatches=microbatches))
    sent, number, text = communication(
        *traced(mesh, microbatches=microbatches, score=Score.EXCESS_LOSS)
    )
    assert set(sent) == set(plain)
    for kind in set(sent) - {"all-reduce"}:
        assert (sent[kind], number[kind]) == (plain[kind], plain_number[kind])
    further = sent["all-reduce"] - plain["all-reduce"]
    if where == "tensor":  # the further projection adds its softmax over parts of the vocabulary
        further -= 2 * 4 * ROWS * LENGTH / 4
    assert further <= 2 * 4 * SCALARS
    assert number["all-reduce"] - plain_number["all-reduce"] <= SCALARS
    # The counter leaves out the branch for equal scores; the text has it.
    more = arrays(text) - arrays(plain_text)
    per_token = [("all-reduce", "f32[8,32]")] if where == "tensor" else []
    assert set(more) <= set(per_token), more


def arrays(text):
    """Count the arrays that the collectives of a program return, scalars left out."""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (\S.*?) ({kinds})(?:-start)?\(", text)
    return Counter(
        (kind, shape) for shapes, kind in found for shape in re.findall(r"\w+\[[\d,]+\]", shapes)
    )
