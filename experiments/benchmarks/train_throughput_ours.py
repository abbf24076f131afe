"""Contenders of `train_throughput.py` from lossline: the compiled step of `lossline.train`, one
mixer.

It also measures the rate of matrix products, compile times, and the speed that `lossline.train`
logs.
"""

import importlib.metadata
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from train_throughput_worker import measure, serve

from lossline import models
from lossline.heap import keep_freed_memory, limit_kept_memory
from lossline.sharding import batch_sharding
from lossline.training.hardware import peak_flops
from lossline.training.make_trainer import make_trainer
from lossline.training.options import TrainOptions
from lossline.training.step import Trainer, host_buffers, one_step_at_a_time

RATES = np.asarray([3e-4, 0.1], np.float32)  # learning rate, weight decay


def facts() -> dict[str, Any]:
    """Return the versions that affect the speed, and the device."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    versions["python"] = ".".join(map(str, sys.version_info[:3]))
    return {"versions": versions, "device": jax.devices()[0].device_kind}


class Step:
    """``Trainer.step``, repeated on one batch; weights are shared through a file of the task."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.trainer = trainer_of(task)
        flops = self.trainer.model.flops_per_token(task["length"])
        self.facts = facts() | {"flops_per_token": flops}
        self.state = self.trainer.init(jax.random.key(0))
        if task.get("weights"):
            self._share(Path(task["weights"]))
        tokens = random_tokens(task)
        batch = {
            "inputs": tokens[:, :-1],
            "targets": tokens[:, 1:],
            "weights": np.ones((task["batch"], task["length"]), np.float32),
        }
        self.batch = jax.device_put(batch, batch_sharding(self.trainer.mesh))
        self.step = self.trainer.compiled(self.state, self.batch, RATES)
        limit_kept_memory(host_buffers(self.step, self.trainer.mesh))  # as `lossline.train`

    def run(self, count: int) -> list[float | None]:
        metrics = []
        with jax.set_mesh(self.trainer.mesh):
            for _ in range(count):
                self.state, values = self.step(self.state, self.batch, RATES)
                metrics.append(values)
        return [float(values[0]) for values in metrics]

    def device_bytes(self) -> int | None:
        return peak_device_bytes()

    def _share(self, path: Path) -> None:
        """Write the weights if no contender has, else read them."""
        params = self.state["params"]
        if not path.exists():
            flat = jax.tree_util.tree_flatten_with_path(params)[0]
            np.savez(path, **{name_of(keys): np.asarray(leaf) for keys, leaf in flat})
            return
        with np.load(path) as stored:
            self.state["params"] = jax.tree_util.tree_map_with_path(
                lambda keys, leaf: jax.device_put(stored[name_of(keys)], leaf.sharding), params
            )


class Mixer:
    """Forward and backward of one state-space mixer: gradients by parameters and input."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.facts = facts()
        config = models.config_from_dict(task["model"])
        graph, _ = nnx.split(nnx.eval_shape(lambda: config.make_mixer(jax.random.key(0))))
        make = jax.jit(lambda key: nnx.state(config.make_mixer(key)))  # as a trainer does
        self.state = make(jax.random.key(0))
        shape = (task["batch"], task["length"], config.width)
        rng = np.random.default_rng(0)
        self.x, self.g = (
            jnp.asarray(rng.standard_normal(shape, np.float32), jnp.dtype(config.activation_dtype))
            for _ in range(2)
        )

        def loss(state: nnx.State, x: jax.Array, g: jax.Array) -> jax.Array:
            y = nnx.merge(graph, state)(x, models.layers.Rows())
            return jnp.sum(y.astype(jnp.float32) * g)

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
        self.gradient = gradient.lower(self.state, self.x, self.g).compile()
        mesh = jax.make_mesh((1,), ("data",))
        limit_kept_memory(host_buffers(self.gradient, mesh))

    def run(self, count: int) -> list[float | None]:
        for _ in range(count):
            jax.block_until_ready(self.gradient(self.state, self.x, self.g))
        return [None] * count

    def device_bytes(self) -> int | None:
        return peak_device_bytes()


def trainer_of(task: dict[str, Any]) -> Trainer:
    """Return the trainer of ``lossline.train`` for the model and batch of the task."""
    options = TrainOptions(
        model=models.config_from_dict(task["model"]),
        store="unused",
        batch_size=task["batch"],
        context_length=task["length"],
        steps=1000,
    )
    return make_trainer(options)


def random_tokens(task: dict[str, Any]) -> np.ndarray:
    """Return the batch, [B, L + 1], the same in every environment."""
    rng = np.random.default_rng(0)
    shape = (task["batch"], task["length"] + 1)
    return rng.integers(0, task["model"]["vocab_size"], shape).astype(np.int32)


def name_of(keys: tuple[Any, ...]) -> str:
    """Return the name of a parameter, for example "blocks/attention/query"."""
    return "/".join(str(getattr(key, "key", key)) for key in keys)


def peak_device_bytes() -> int | None:
    """Return the peak memory of the first accelerator in bytes."""
    stats = jax.devices()[0].memory_stats()
    return None if stats is None else stats.get("peak_bytes_in_use")


def matmul_rates(task: dict[str, Any]) -> dict[str, float]:
    """Return GFLOP/s of square products with float32 accumulation, the best of a few per size."""
    rates = {}
    for dtype, sizes in task["sizes"].items():
        for size in sizes:
            keys = jax.random.split(jax.random.key(0))
            a, b = (jax.random.normal(key, (size, size), jnp.dtype(dtype)) for key in keys)
            product = jax.jit(lambda a, b: jnp.dot(a, b, preferred_element_type=jnp.float32))
            product(a, b).block_until_ready()
            times = []
            while len(times) < 3 or (len(times) < 20 and sum(times) < 0.3):
                start = time.perf_counter()
                product(a, b).block_until_ready()
                times.append(time.perf_counter() - start)
            rates[f"{dtype} {size}"] = 2 * size**3 / min(times) / 1e9
    peak = peak_flops(jax.devices()[0])
    return rates if peak is None else rates | {"bfloat16 data sheet": peak / 1e9}


def compile_seconds(task: dict[str, Any]) -> dict[str, float]:
    """Return the seconds to trace and compile the training step, by depth, scanned and unrolled."""
    seconds = {}
    for scan in (True, False):
        for layers in task["depths"]:
            model = {**task["model"], "layers": layers, "scan_layers": scan}
            trainer = trainer_of({**task, "model": model})
            shape = (task["batch"], task["length"])
            batch = {
                "inputs": jax.ShapeDtypeStruct(shape, jnp.int32),
                "targets": jax.ShapeDtypeStruct(shape, jnp.int32),
                "weights": jax.ShapeDtypeStruct(shape, jnp.float32),
            }
            abstract = trainer.abstract_state
            name = f"{'scanned' if scan else 'unrolled'} {layers}"
            with jax.set_mesh(trainer.mesh):
                start = time.perf_counter()
                lowered = trainer.step.lower(abstract, batch, jax.ShapeDtypeStruct((2,), "float32"))
                seconds[f"{name} trace"] = time.perf_counter() - start
                start = time.perf_counter()
                lowered.compile()
                seconds[f"{name} compile"] = time.perf_counter() - start
    return seconds


GIN = """
train.store = "{store}"
train.directory = "{folder}/run"
train.compilation_cache = "{cache}"
train.model = @llama()
train.batch_size = {batch}
train.steps = {steps}
train.log = @log()
log.every = 1
log.tensorboard = False
train.checkpoints = @checkpoints()
checkpoints.count = 0
"""


def train_rate(task: dict[str, Any]) -> dict[str, float]:
    """Return the tokens per second that `python -m lossline.train` logs."""
    from lossline.stores.store_writer import write_store
    from lossline.vocabularies import ByteVocabulary

    text = "".join(chr(97 + n) for n in np.random.default_rng(0).integers(0, 26, 2_000_000))
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder) / "store", [text], ByteVocabulary(), name="noise")
        options = {k: v for k, v in task["model"].items() if k != "__class__"}
        gin = GIN.format(
            store=f"{folder}/store",
            folder=folder,
            cache=task["cache"],
            batch=task["batch"],
            steps=task["steps"],
        )
        gin += "".join(f"llama.{name} = {value!r}\n" for name, value in options.items())
        path = Path(folder) / "run.gin"
        path.write_text(gin)
        subprocess.run(
            [sys.executable, "-m", "lossline.train", f"--gin_file={path}"], check=True, stdout=2
        )
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [json.loads(line).get("tokens_per_second") for line in lines]
    # A rate is logged again until the next one is measured: keep each measurement once.
    found = list(dict.fromkeys(rate for rate in rates if rate))
    if not found:
        raise RuntimeError("the training logged no rate")
    return {
        "tokens_per_second min": min(found),
        "tokens_per_second median": float(np.median(found)),
        "tokens_per_second max": max(found),
    }


KINDS = {"model": Step, "mixer": Mixer}
MEASUREMENTS = {"matmul": matmul_rates, "compile": compile_seconds, "train": train_rate}

if __name__ == "__main__":
    kind = json.loads(sys.argv[1])["kind"]
    keep_freed_memory()
    one_step_at_a_time()
    if kind in KINDS:
        serve(KINDS[kind])
    else:
        measure(MEASUREMENTS[kind])
