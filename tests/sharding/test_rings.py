"""The choice of rings: what the compiler gets, what a run records, and what stays the same."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import pytest

from lossline.errors import UserError
from lossline.evaluation.measured_runs import run_columns
from lossline.models import LlamaConfig
from lossline.options.identity import fingerprint
from lossline.options.roles import RINGS, Role, fact_of
from lossline.sharding import MeshOptions, Rings, chosen_rings, ring_options
from lossline.sharding.rings import OPTION
from lossline.training.make_trainer import make_trainer, step_arguments
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer

OPTIONS = TrainOptions(
    model=LlamaConfig(vocab_size=64, width=32, layers=1, heads=2, mlp_width=32, context_length=16),
    store="unread",
    batch_size=2,
    steps=10,
)
FLAG = {"LIBTPU_INIT_ARGS": f"--xla_other=1 --{OPTION}=4"}


def with_rings(rings: Rings) -> TrainOptions:
    return replace(OPTIONS, mesh=MeshOptions(data=1, rings=rings))


@pytest.mark.parametrize(
    ("rings", "platform", "chosen"),
    [
        (Rings.AUTO, "tpu", "off"),
        (Rings.OFF, "tpu", "off"),
        (Rings.ON, "tpu", "on"),
        (Rings.OFF, "cpu", None),
        (Rings.ON, "gpu", None),
    ],
)
def test_rings_are_chosen_on_a_tpu_only(rings, platform, chosen):
    assert chosen_rings(rings, platform, {}) == chosen
    assert ring_options(rings, platform, {}) == ({OPTION: 1_000_000} if chosen == "off" else None)


def test_a_flag_of_the_user_stays_as_it_is():
    assert chosen_rings(Rings.AUTO, "tpu", FLAG) == "LIBTPU_INIT_ARGS"
    assert ring_options(Rings.AUTO, "tpu", FLAG) is None
    assert ring_options(Rings.OFF, "tpu", {"LIBTPU_INIT_ARGS": "--xla_other=1"}) is not None
    for rings in (Rings.ON, Rings.OFF):
        with pytest.raises(UserError, match=r"mesh.rings = 'o\w+', but LIBTPU_INIT_ARGS sets"):
            ring_options(rings, "tpu", FLAG)
        assert ring_options(rings, "cpu", FLAG) is None


def test_the_option_reaches_the_compiler_of_the_step(monkeypatch):
    """The CPU compiler refuses the option of the TPU compiler by its name, so it got it."""
    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.setattr(Trainer, "_platform", "tpu")
    devices = jax.devices("cpu")[:1]

    def lowered(rings: Rings):
        trainer = make_trainer(with_rings(rings), devices=devices)
        assert trainer.chosen_rings == ("on" if rings is Rings.ON else "off")
        with jax.set_mesh(trainer.mesh):
            return trainer.step.lower(*step_arguments(OPTIONS, trainer))

    for rings in (Rings.AUTO, Rings.OFF):
        with pytest.raises(jax.errors.JaxRuntimeError, match=OPTION):
            lowered(rings).compile()
    lowered(Rings.ON).compile()


def test_rings_are_no_part_of_the_identity(monkeypatch):
    monkeypatch.setattr("lossline.batches.mixture.store_fingerprint", lambda store: "content")
    assert len({fingerprint(with_rings(rings)) for rings in Rings}) == 1


def test_a_difference_in_rings_is_numerics_only():
    assert fact_of(RINGS).role is Role.NUMERICS
    on_tpu = run_columns(SimpleNamespace(facts={"rings": "off"}, config={"batch_size": 2}))
    assert on_tpu[RINGS] == "off" and on_tpu["option.batch_size"] == "2"
    for facts in ({"rings": None}, {}):  # no TPU; a run of an earlier version
        assert RINGS not in run_columns(SimpleNamespace(facts=facts, config={}))
