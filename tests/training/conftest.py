"""A small store of real sentences, tiny models, and options to train them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from lossline.models import LlamaConfig, MambaConfig
from lossline.sharding import MeshOptions
from lossline.stores.store_writer import write_store
from lossline.stores.token_store import TokenStore
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.loop import use_compilation_cache
from lossline.training.options import LogOptions, TrainOptions
from lossline.vocabularies import ByteVocabulary

LLAMA = LlamaConfig(
    vocab_size=264,
    width=32,
    layers=2,
    heads=4,
    kv_heads=4,
    mlp_width=64,
    context_length=32,
    activation_dtype="float32",
)
MAMBA = MambaConfig(
    vocab_size=264,
    width=32,
    layers=2,
    state=8,
    context_length=32,
    activation_dtype="float32",
    scan_chunk=4,  # the smaller the chunk, the quicker it compiles
)


@pytest.fixture(scope="session")
def models() -> dict[str, LlamaConfig | MambaConfig]:
    return {"llama": LLAMA, "mamba": MAMBA}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> TokenStore:
    """The source of this package as bytes: text enough, and always at hand."""
    texts = [
        path.read_text(encoding="utf-8")
        for path in sorted((repository / "lossline/sharding").glob("*.py"))
    ]
    return write_store(
        tmp_path_factory.mktemp("store") / "source", texts, ByteVocabulary(), name="source"
    )


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One compilation cache for all tests: the same tiny step is compiled once."""
    folder = tmp_path_factory.mktemp("cache")
    use_compilation_cache(folder)
    return folder


@pytest.fixture(scope="session")
def base_options(store: TokenStore, cache: Path) -> TrainOptions:
    """12 steps of a tiny Llama on one data-parallel mesh of all devices; ``root`` is to be set."""
    return TrainOptions(
        name="tiny",
        model=LLAMA,
        store=str(store.location),
        batch_size=8,
        steps=12,
        checkpoints=CheckpointOptions(count=3),
        mesh=MeshOptions(data=jax.device_count()),
        log=LogOptions(every=1, tensorboard=False),
        compilation_cache=str(cache),
    )


@pytest.fixture
def options(tmp_path: Path, base_options: TrainOptions) -> Callable[..., TrainOptions]:
    """``options(**changes)``: the base options, in a folder of the test's own."""
    return lambda **changes: replace(base_options, **{"root": str(tmp_path / "runs"), **changes})
