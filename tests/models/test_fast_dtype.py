"""float32 where bfloat16 is emulated, bfloat16 everywhere else."""

from pathlib import Path

import pytest

import lossline.train
from lossline.cli.configuration import build_options
from lossline.models import fast_dtype as module
from lossline.models.fast_dtype import fast_dtype
from lossline.options.identity import identity


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Pretend to be a machine: which platforms JAX was given, its devices, its processor."""

    def pretend(platforms: str, devices: tuple[str, ...], bfloat16: bool) -> None:
        monkeypatch.setattr(module, "_platforms", lambda: platforms)
        for name in devices:
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        monkeypatch.setattr(module, "_DEVICES", Path(tmp_path))
        monkeypatch.setattr(module, "has_bfloat16_instructions", lambda: bfloat16)

    return pretend


@pytest.mark.parametrize(
    ("platforms", "devices", "bfloat16", "dtype"),
    [
        ("", (), False, "float32"),
        ("", (), True, "bfloat16"),
        ("", ("nvidia0",), False, "bfloat16"),
        ("", ("nvidiactl",), False, "float32"),  # a driver without a card
        ("", ("accel0",), False, "bfloat16"),
        ("", ("vfio/0",), False, "bfloat16"),
        ("cpu", ("nvidia0",), False, "float32"),
        ("tpu,cpu", (), False, "bfloat16"),
    ],
)
def test_only_a_processor_that_emulates_bfloat16_takes_float32(
    machine, platforms, devices, bfloat16, dtype
):
    machine(platforms, devices, bfloat16)
    assert fast_dtype() == dtype


def test_the_shipped_models_take_it_and_their_identity_is_the_answer(machine):
    machine("", (), False)
    files = ["gin_configs/runs/quickstart.gin", "gin_configs/models/quickstart_llama.gin"]
    options = build_options(
        "train", lossline.train.load(), gin_files=files, bindings=["train.store = 'x'"]
    )
    assert options.model.activation_dtype == "float32"
    assert identity(options.model)["activation_dtype"] == "float32"
