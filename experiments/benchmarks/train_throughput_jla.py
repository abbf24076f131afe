"""Contenders of `train_throughput.py` from `jax-linear-attention`: training step and Mamba-1 layer.

They use the options that its own benchmark recommends for the device.
"""

import importlib.metadata
import json
import sys
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jla.layers.mamba1 import Mamba1
from jla.models import AttentionConfig, ModelConfig, SSMConfig, build_model
from jla.training.optimizers import create_optimizer
from jla.training.step import LossConfig, build_train_step, lm_loss
from train_throughput_worker import serve


def facts() -> dict[str, Any]:
    """Return the versions that affect the speed, and the device."""
    names = ("jax-linear-attention", "jax", "jaxlib", "equinox")
    versions = {name: importlib.metadata.version(name) for name in names}
    versions["python"] = ".".join(map(str, sys.version_info[:3]))
    return {"versions": versions, "device": jax.devices()[0].device_kind}


class Step:
    """Compiled training step of the library, repeated on one batch."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.facts = facts()
        self.key = jax.random.key(0)
        self.model = build_model(config_of(task["model"], task["remat"]), key=self.key)
        optimizer = create_optimizer(lr=3e-4, weight_decay=0.1, betas=(0.9, 0.95))
        self.state = optimizer.init(eqx.filter(self.model, eqx.is_inexact_array))
        on_gpu = task["device"] == "gpu"
        dtype = task["model"]["activation_dtype"]
        loss = LossConfig(
            compute_dtype=dtype, impl="auto" if on_gpu else "xla", grad_in_forward=on_gpu
        )
        self.step = build_train_step(optimizer, lm_loss(loss))
        rng = np.random.default_rng(0)
        shape = (1, task["batch"], task["length"] + 1)
        tokens = rng.integers(0, task["model"]["vocab_size"], shape).astype(np.int32)
        self.batch = {
            "input_ids": jnp.asarray(tokens[..., :-1]),
            "labels": jnp.asarray(tokens[..., 1:]),
        }

    def run(self, count: int) -> list[float | None]:
        losses = []
        for _ in range(count):
            self.model, self.state, metrics, self.key = self.step(
                self.model, self.state, self.batch, self.key
            )
            losses.append(metrics["loss"])
        return [float(loss) for loss in losses]

    def device_bytes(self) -> int | None:
        return peak_device_bytes()


class Mixer:
    """Forward and backward of the library's Mamba-1 layer: gradients by parameters and input."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.facts = facts()
        model = task["model"]
        options = SSMConfig(d_state=model["state"], expand=2)
        mixer = Mamba1(
            model["width"],
            options,
            key=jax.random.key(0),
            std=0.02,
            norm_eps=1e-5,
            compute_dtype=model["activation_dtype"],
        )
        self.params, static = eqx.partition(mixer, eqx.is_inexact_array)
        rng = np.random.default_rng(0)
        shape = (task["batch"], task["length"], model["width"])
        self.x, self.g = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(2))

        def loss(params: Any, x: jax.Array, g: jax.Array) -> jax.Array:
            return jnp.sum(eqx.combine(params, static)(x) * g)

        self.gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))

    def run(self, count: int) -> list[float | None]:
        for _ in range(count):
            jax.block_until_ready(self.gradient(self.params, self.x, self.g))
        return [None] * count

    def device_bytes(self) -> int | None:
        return peak_device_bytes()


def config_of(model: dict[str, Any], remat: str) -> ModelConfig:
    """Convert a configuration of lossline to one of the library."""
    common = {
        "vocab_size": model["vocab_size"],
        "d_model": model["width"],
        "n_layers": model["layers"],
        "tie_embeddings": False,
        "norm_eps": 1e-5,
        "compute_dtype": model["activation_dtype"],
        "remat": remat,
    }
    if model["__class__"] == "LlamaConfig":
        heads = model["heads"]
        attention = AttentionConfig(
            num_heads=heads,
            num_kv_heads=model.get("kv_heads") or heads,
            head_dim=model["width"] // heads,
            qk_norm=False,
        )
        return ModelConfig(d_ff=model["mlp_width"], attention=attention, **common)
    layers = model["layers"]
    kind = {"MambaConfig": "mamba1", "Mamba2Config": "mamba2"}[model["__class__"]]
    return ModelConfig(
        d_ff=0,
        attention=AttentionConfig(num_heads=16, num_kv_heads=4, head_dim=128),  # not used
        ssm=SSMConfig(d_state=model["state"], expand=2, head_dim=model.get("head_channels", 64)),
        layer_types=(kind,) * layers,
        mlp_types=("none",) * layers,
        **common,
    )


def peak_device_bytes() -> int | None:
    """Return the peak memory of the first accelerator in bytes."""
    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")


if __name__ == "__main__":
    serve({"model": Step, "mixer": Mixer}[json.loads(sys.argv[1])["kind"]])
