"""Facts of a run that are known before its first step.

They become columns of the loss table, and record how the run was made: versions, devices, data.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
from jax.sharding import Mesh

import lossline
from lossline.objectives.options import Scope
from lossline.stores.token_scores import TokenScores
from lossline.training.options import TrainOptions
from lossline.training.text import TrainingText

_PACKAGES = ("flax", "jax", "jaxlib", "numpy", "optax", "orbax-checkpoint")


def run_facts(
    options: TrainOptions,
    *,
    run_id: str,
    text: TrainingText,
    fingerprint: str,
    mesh: Mesh,
    rings: str | None = None,
    scores: Sequence[TokenScores] = (),
    start: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the facts of a run: the columns of the loss table first, then further records.

    Args:
        options: options of the run.
        run_id: name of the run directory.
        text: text that the run is trained on.
        fingerprint: fingerprint of the data that the batches are drawn from.
        mesh: devices in use.
        rings: what decides about the rings of the step (``Trainer.chosen_rings``).
        scores: token scores that the objective reads.
        start: facts of the origin (``lossline.runs.origin.start_facts``).
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
        "token_selection": token_selection(options, scores),
        "params": counts.total,
        "params_non_embedding": counts.non_embedding,
        "seed": options.seed,
        **start,
        "source": "lossline",
        "steps": options.total_steps,
        "tokens": options.total_tokens,
        "tokens_per_step": options.tokens_per_step,
        "flops_per_token": options.flops_per_token,
        **_selection_flops(options, scores),
        **text.facts(options.total_tokens),
        "store_fingerprint": fingerprint,
        "vocabulary_hash": vocabulary.hash,
        "vocab_size": vocabulary.vocab_size,
        "mesh": dict(mesh.shape),
        "rings": rings,
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


def token_selection(options: TrainOptions, scores: Sequence[TokenScores]) -> str:
    """Return the rule, the share and the reference of the selected tokens; "all" without selection.

    An example: "excess loss 60% of the batch, reference tuned-1a2b3c4d step 500".
    """
    chosen = options.objective
    if chosen is None:
        return "all"
    text = f"{chosen.score.words} {100 * chosen.share:.6g}% of the {chosen.selects_in}"
    if chosen.scope is Scope.MICROBATCH:
        text += f" (1/{options.microbatches} of a batch)"
    if references := dict.fromkeys(item.reference for item in scores):
        text += f", reference {' and '.join(references)}"
    return text


def _selection_flops(
    options: TrainOptions, scores: Sequence[TokenScores]
) -> dict[str, float | None]:
    """Return the FLOPs of the selection: once, and per token of the training.

    Once: the training of the references, and the scoring; None if a training is unknown. Per token:
    a further projection on the vocabulary, or a further forward pass where the losses of all
    microbatches come first. What a single device saves by projecting only the selected tokens again
    is not subtracted.
    """
    chosen = options.objective
    if chosen is None:
        return {"selection_flops_once": 0.0, "selection_flops_per_token": 0.0}
    start = None if options.start is None else options.start.parameters
    spent = {item.parameters: item.manifest.training_flops(start) for item in scores}
    references = [flops for flops in spent.values() if flops is not None]
    once = sum(references) + sum(item.scoring_flops for item in scores)
    per_token = 0.0
    if chosen.score.needs_current_model:
        per_token = 2.0 * options.model.width * options.model.vocab_size
        if options.microbatches > 1 and chosen.selects_in == Scope.BATCH.value:
            per_token = options.flops_per_token / 3
    known = once if len(references) == len(spent) else None
    return {"selection_flops_once": known, "selection_flops_per_token": per_token}
