"""Options written as gin text are rebuilt unchanged, whether they came from gin or from Python."""

import dataclasses

import pytest

import lossline.train
from lossline.cli.configuration import build_options
from lossline.models import CONFIGS, HybridConfig, LlamaConfig, Mamba2Config, MambaConfig
from lossline.models.gpt import GPTConfig
from lossline.options.gin_text import gin_text
from lossline.options.identity import identity
from lossline.sharding import LaunchOptions, MeshOptions
from lossline.sharding.launch import Launch
from lossline.training.checkpoint_schedule import CheckpointOptions, Spacing
from lossline.training.components import COMPONENTS
from lossline.training.loop import train
from lossline.training.optimizer import SGD, Adam, AdamW
from lossline.training.options import Documents, LogOptions, TrainOptions
from lossline.training.schedule import ConstantSchedule, DecayShape, WSDSchedule

SHAPE = {"vocab_size": 264, "width": 16, "layers": 2, "context_length": 8}
MODELS = [
    LlamaConfig(**SHAPE, heads=2, mlp_width=8, rope_theta=1e6),
    GPTConfig(**SHAPE, heads=2, mlp_width=8),
    MambaConfig(**SHAPE, dt_rank=3),
    Mamba2Config(**SHAPE, head_channels=8),
    HybridConfig(**SHAPE, heads=2, mlp_width=8, attention_every=2, head_channels=8),
]


def again(text):
    return build_options("train", lossline.train.load(), bindings=text.splitlines())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.family)
def test_every_model_is_rebuilt(model):
    options = TrainOptions(model=model, store="a 'quoted' store", batch_size=2, steps=20)
    assert again(gin_text("train", options, COMPONENTS)) == options
    assert {type(model) for model in MODELS} == set(CONFIGS.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": SGD(momentum=0.0, clip_norm=None), "schedule": ConstantSchedule()},
        {"optimizer": Adam(eps=1e-10), "schedule": WSDSchedule(shape=DecayShape.LINEAR)},
        {"optimizer": AdamW(learning_rate=0.1 + 0.2)},
        {"checkpoints": CheckpointOptions(steps=(3, 5), count=4, spacing=Spacing.GEOMETRIC)},
        {"documents": Documents.SEPARATE, "data_seed": 2**40, "steps": None, "tokens": 10**9},
        {
            "mesh": MeshOptions(fsdp=2, rules=("mlp=fsdp", "vocab=")),
            "launch": LaunchOptions(how=Launch.AUTO),
            "log": LogOptions(seconds=0.5, tensorboard=False),
            "directory": "some/where",
        },
    ],
)
def test_every_option_is_rebuilt(changes):
    options = dataclasses.replace(
        TrainOptions(model=MODELS[0], store="s", batch_size=2, steps=20), **changes
    )
    assert again(gin_text("train", options, COMPONENTS)) == options


def test_different_values_of_one_class_get_scopes_and_equal_values_share():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Two:
        first: AdamW
        second: AdamW
        third: tuple[AdamW, ...]
        named: dict[str, AdamW]

    slow, fast = AdamW(learning_rate=1e-4), AdamW(learning_rate=1e-2)
    text = gin_text(
        "two", Two(first=slow, second=fast, third=(slow,), named={"f": fast}), COMPONENTS
    )
    assert "two.first = @adamw()" in text and "two.second = @n2/adamw()" in text
    assert "two.third = [@adamw()]" in text and "two.named = {'f': @n2/adamw()}" in text
    assert text.count("adamw.learning_rate") == 2 and "n2/adamw.learning_rate = 0.01" in text


def test_unregistered_class_becomes_a_comment():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Lion(AdamW):
        pass

    options = TrainOptions(
        model=MODELS[0], store="s", batch_size=2, steps=20, optimizer=Lion(learning_rate=1e-3)
    )
    text = gin_text("train", options, COMPONENTS)
    assert "# train.optimizer = " in text and "Lion(learning_rate=0.001" in text


def test_python_and_the_command_write_the_same_config(tmp_path, monkeypatch):
    """Gin's global state of an earlier command must not change the file."""
    from lossline.stores.store_writer import write_store
    from lossline.vocabularies import ByteVocabulary

    write_store(tmp_path / "store", ["some text " * 20], ByteVocabulary(), name="text")
    monkeypatch.chdir(tmp_path)
    for part in ("_begin", "_steps"):  # the file is written before the first step
        monkeypatch.setattr(f"lossline.training.loop.{part}", lambda *_: None)
    options = TrainOptions(
        model=MODELS[0],
        store="store",
        batch_size=8,
        steps=2,
        checkpoints=CheckpointOptions(count=0, minutes=0),
        log=LogOptions(tensorboard=False),
    )
    build_options("train", lossline.train.load(), bindings=_other(tmp_path))  # gin's global state
    run = train(options)
    config = (run.path / "config.gin").read_text()
    commanded = again(config)
    assert commanded == options and identity(commanded) == run.config
    other = train(dataclasses.replace(commanded, directory=str(tmp_path / "by-command")))
    lines = (other.path / "config.gin").read_text().splitlines()
    differing = set(lines) ^ set(config.splitlines())
    assert {line.partition(" = ")[0] for line in differing} == {"train.directory"}


def _other(folder):
    return [
        "train.model = @mamba()",
        *(f"mamba.{name} = {value}" for name, value in SHAPE.items()),
        "train.store = 'other'",
        "train.batch_size = 4",
        "train.steps = 99",
    ]
