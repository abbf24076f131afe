"""Facts of a run that are known before its first step.

They become columns of the loss table, and record how the run was made: versions, devices, data.
"""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import jax
from jax.sharding import Mesh

import lossline
from lossline.training.options import TrainOptions
from lossline.training.text import TrainingText

_PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")


def run_facts(
    options: TrainOptions, *, run_id: str, text: TrainingText, fingerprint: str, mesh: Mesh
) -> dict[str, Any]:
    """Return the facts of a run: the columns of the loss table first, then further records.

    Args:
        options: options of the run.
        run_id: name of the run directory.
        text: text that the run is trained on.
        fingerprint: fingerprint of the data that the batches are drawn from.
        mesh: devices in use.
    """
    counts = options.model.num_params()
    vocabulary = text.vocabulary
    device = mesh.devices.flat[0]
    return {
        "run_id": run_id,
        "architecture": options.model.family,
        "tokenizer": vocabulary.name,
        "context_length": options.length,
        "optimizer": options.optimizer.family,
        "schedule": options.schedule.family,
        "learning_rate": options.optimizer.learning_rate,
        "weight_decay": options.optimizer.weight_decay,
        "token_selection": "all",
        "params": counts.total,
        "params_non_embedding": counts.non_embedding,
        "seed": options.seed,
        "source": "lossline",
        "steps": options.total_steps,
        "tokens": options.total_tokens,
        "tokens_per_step": options.tokens_per_step,
        "flops_per_token": options.flops_per_token,
        **text.facts(options.total_tokens),
        "store_fingerprint": fingerprint,
        "vocabulary_hash": vocabulary.hash,
        "vocab_size": vocabulary.vocab_size,
        "mesh": dict(mesh.shape),
        "devices": mesh.size,
        "processes": jax.process_count(),
        "device_kind": device.device_kind,
        "platform": device.platform,
        "versions": {
            "lossline": lossline.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in _PACKAGES},
        },
    }
