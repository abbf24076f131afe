"""A small store of sentences, tiny models, and options to train them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from shared_trainers import sharing

from lossline.models import LlamaConfig, MambaConfig
from lossline.sharding import MeshOptions
from lossline.stores import arrays
from lossline.stores.store_writer import write_store
from lossline.stores.token_scores import ScoreManifest, ScoreSource, write_manifest
from lossline.stores.token_store import TokenStore
from lossline.training import make_trainer as trainers
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.loop import use_compilation_cache
from lossline.training.options import LogOptions, TrainOptions
from lossline.training.step import Trainer
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
    scan_chunk=4,  # a smaller chunk compiles faster
)

WORDS = (
    "a and every from in model of on line loss that the this to with data learns mesh reads step "
    "token train under value when window"
)


@pytest.fixture(scope="session")
def models() -> dict[str, LlamaConfig | MambaConfig]:
    return {"llama": LLAMA, "mamba": MAMBA}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Token store of six fixed documents of sentences, 18,000 bytes together."""
    texts = [_document(number) for number in range(6)]
    return write_store(
        tmp_path_factory.mktemp("store") / "sentences", texts, ByteVocabulary(), name="sentences"
    )


def _document(number: int) -> str:
    """Return 60 sentences of common words; a model learns them within a few steps."""
    random, words = np.random.default_rng(number), WORDS.split()
    sentences = (" ".join(random.choice(words, 10)).capitalize() for _ in range(60))
    return ".\n".join(sentences) + ".\n"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One compilation cache for all tests, so that each tiny step is compiled once."""
    folder = tmp_path_factory.mktemp("cache")
    use_compilation_cache(folder)
    return folder


@pytest.fixture(scope="session")
def known_trainers() -> dict[tuple[Mesh, str], Trainer]:
    """Trainers of the tests so far; a test that needs a new trace empties it."""
    return {}


@pytest.fixture(autouse=True, scope="session")
def shared_trainers(known_trainers: dict[tuple[Mesh, str], Trainer]) -> Iterator[None]:
    """Let trainings of equal model, objective, optimizer and mesh share one traced step.

    Tracing and lowering are most of a training of twelve tiny steps. Trainings in other processes
    (after ``kill -9``) trace their own.
    """

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers, "Trainer", sharing(known_trainers))
        yield


@pytest.fixture(scope="session")
def base_options(store: TokenStore, cache: Path) -> TrainOptions:
    """12 steps of a tiny Llama, data-parallel over all devices; tests set ``root``."""
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
    """``options(**changes)``: the base options, in a folder of this test."""
    return lambda **changes: replace(base_options, **{"root": str(tmp_path / "runs"), **changes})


@pytest.fixture(scope="session")
def written_scores(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """``written_scores(store, context_length=L)``: random token scores, as a reference gives."""

    def write(
        store: str,
        *,
        context_length: int,
        seed: int = 0,
        run_id: str = "reference",
        parameters: str = "p" * 64,
        reference_flops: float | None = 1e9,
        reference_start: str | None = None,
    ) -> str:
        opened = TokenStore.open(store)
        folder, size = tmp_path_factory.mktemp("scores"), opened.num_tokens
        random, found = np.random.default_rng(seed), {}
        for name in ("nats", "entropy"):
            values = random.gamma(2.0, 1.5, size).astype(np.float16)
            values[size // context_length * context_length :] = np.nan
            found[name] = arrays.write(folder / name, [values], dtype="float16", size=size)
        source = ScoreSource(
            store_fingerprint=opened.manifest.fingerprint,
            vocabulary_hash=opened.manifest.vocabulary.hash,
            tokens=size,
            run_id=run_id,
            step=5,
            parameters=parameters,
            context_length=context_length,
            documents="joined",
            quantities=("nats", "entropy"),
            activations="float32",
        )
        manifest = ScoreManifest(
            source=source,
            store=store,
            reference_flops=reference_flops,
            reference_start=reference_start,
            reference_start_flops=7e9,
            scoring_flops=2e6,
            means={"nats": 3.0, "entropy": 3.0},
            arrays=found,
        )
        write_manifest(folder, manifest)
        return str(folder)

    return write
