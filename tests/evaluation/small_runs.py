"""Run directories like those of a training, made quickly: fresh parameters at every step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lossline import models
from lossline.corpora.items import Item
from lossline.files import write_json
from lossline.runs.checkpoints import CheckpointWriter
from lossline.runs.run_directory import RunDirectory, RunState, RunStatus
from lossline.stores.store_writer import write_store
from lossline.stores.task_store import write_task
from lossline.vocabularies import ByteVocabulary

SHAPE = {"vocab_size": 259, "vocab_multiple": 8, "width": 16, "layers": 2, "context_length": 32}
LLAMA = models.LlamaConfig(**SHAPE, heads=2, mlp_width=24)
MAMBA = models.MambaConfig(**SHAPE)

TEXTS = ["Ein Satz.", "é語😀 " * 9, "x", "a longer document, " * 5, "", "last words"]
ITEMS = [
    Item(id="a", context="The sky is", choices=(" blue", " a cheese", " wet, wet, wet"), gold=0),
    Item(id="b", context="Two and two " * 4, choices=(" are four", " are a crowd"), gold=0),
    Item(id="c", context="Ask", choices=(" not", " away"), gold=1),
]


def params_at(config, step):
    """Return random parameters of a step's checkpoint, without compiling an initialization."""
    rng = np.random.default_rng(step)
    shapes = nnx.to_pure_dict(models.abstract_state(config)[1])
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.5, p.shape), p.dtype), shapes)


def make_run(path, config, *, steps=(2, 4, 6), vocabulary=None, state=RunState.FINISHED):
    """Make a run directory with a kept checkpoint at each step."""
    vocabulary = vocabulary or ByteVocabulary()
    path.mkdir(parents=True)
    run = RunDirectory(path)
    facts = {
        "run_id": path.name,
        "architecture": config.family,
        "pretraining_data": "wiki",
        "tokenizer": vocabulary.name,
        "context_length": config.context_length,
        "params": config.num_params().total,
        "params_non_embedding": config.num_params().non_embedding,
        "seed": 0,
        "source": "lossline",
        "tokens_per_step": 64,
        "flops_per_token": config.flops_per_token(config.context_length),
        "vocabulary_hash": vocabulary.hash,
    }
    write_json(path / "facts.json", facts)
    write_json(path / "config.json", {"__class__": "TrainOptions", "model": config.to_dict()})
    add_checkpoints(run, config, steps)
    run.write_status(RunStatus(state=state, step=max(steps, default=0)))
    return run


def add_checkpoints(run, config, steps):
    """Add checkpoints, as a continued training would."""
    writer = CheckpointWriter(run, data="data")
    for step in steps:
        writer.save(step, {"params": params_at(config, step), "optimizer": {}}, kept=True)
    writer.close()


def make_stores(folder, vocabulary=None):
    """Make a token store and a benchmark under folder/<vocabulary>/."""
    vocabulary = vocabulary or ByteVocabulary()
    root = folder / vocabulary.name
    write_store(root / "wiki-validation", TEXTS, vocabulary, name="wiki", split="validation")
    write_task(root / "sky", ITEMS, vocabulary, benchmark="sky")
    return folder


def corrupt(run, step):
    """Change a byte of a checkpoint's parameters."""
    manifest = json.loads((run.path / "checkpoints" / str(step) / "manifest.json").read_text())
    name = max(
        (n for n in manifest["files"] if n.startswith("params/")),
        key=lambda n: manifest["files"][n][0],
    )
    file = run.path / "checkpoints" / str(step) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)
