"""Registry of the components that gin files of ``lossline.train`` can build, by gin name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lossline import models
from lossline.batches.mixture import Mixture
from lossline.models.fast_dtype import fast_dtype
from lossline.objectives.options import Selective
from lossline.runs.origin import FromRun
from lossline.sharding import LaunchOptions, MeshOptions
from lossline.training import optimizer, schedule
from lossline.training.checkpoint_schedule import CheckpointOptions
from lossline.training.options import LogOptions

COMPONENTS: dict[str, Callable[..., Any]] = {
    **{config.family: config for config in models.CONFIGS.values()},
    "mixture": Mixture,
    "selective": Selective,
    "from_run": FromRun,
    "adamw": optimizer.AdamW,
    "adam": optimizer.Adam,
    "sgd": optimizer.SGD,
    "cosine": schedule.CosineSchedule,
    "wsd": schedule.WSDSchedule,
    "constant_rate": schedule.ConstantSchedule,
    "checkpoints": CheckpointOptions,
    "mesh": MeshOptions,
    "launch": LaunchOptions,
    "log": LogOptions,
    "fast_dtype": fast_dtype,
}
