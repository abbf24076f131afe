"""Steps compiled for GPUs that are not present."""

import importlib.util
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies

from lossline.compilation import targets
from lossline.compilation.analysis import analyze, trainer_for
from lossline.compilation.flops import matmul_flops, total
from lossline.errors import UserError
from lossline.models import LlamaConfig, Mamba2Config, MambaConfig
from lossline.ops.attention import attention
from lossline.ops.backend import compiling_for
from lossline.sharding import MeshOptions
from lossline.training.make_trainer import step_arguments
from lossline.training.options import Documents, TrainOptions

needs_cuda_wheels = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)),
    reason="JAX's CUDA wheels are not installed ([gpu] extra)",
)
SIZES = {"vocab_size": 256, "width": 128, "layers": 2, "context_length": 256}
LLAMA = LlamaConfig(heads=2, mlp_width=128, **SIZES)
MAMBA = MambaConfig(scan_implementation="pallas", **SIZES)


def training(**changes) -> TrainOptions:
    return TrainOptions(**{"store": "unread", "batch_size": 16, "steps": 100, **changes})


def test_missing_cuda_wheels_give_an_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"but no card\); install the \[gpu\] extra: `pip"):
        targets.find_target("h200:8")


@pytest.mark.parametrize("cuda", [12, 13])
def test_missing_cudnn_gives_the_name_of_its_wheel(monkeypatch, cuda):
    def missing():
        raise RuntimeError("cuDNN not found.")

    plugin = f"jax_cuda{cuda}_plugin"
    versions = SimpleNamespace(cudnn_get_version=missing)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == plugin or None)
    monkeypatch.setitem(sys.modules, plugin, ModuleType(plugin))
    monkeypatch.setitem(sys.modules, f"{plugin}._versions", versions)
    monkeypatch.setattr(topologies, "get_topology_desc", lambda **_: None)
    with pytest.raises(UserError, match=rf"\(cuDNN not found\): .* nvidia-cudnn-cu{cuda}$"):
        targets.find_target("h200")


@pytest.mark.parametrize("name", ["h200:0", "h200:2x4", "h300"])
def test_an_unknown_card_is_refused_with_the_known_ones(name):
    with pytest.raises(UserError, match=f"no topology '{name}'.*h200:<cards>, h100:<cards>"):
        targets.find_target(name)


def test_cudnn_attention_counts_the_causal_half_of_seven_products(monkeypatch):
    # JAX asks the GPU for its cuDNN version; this machine has no GPU.
    from jax._src.cudnn import fused_attention_stablehlo as library

    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91002)
    q = jax.ShapeDtypeStruct((2, 256, 4, 64), jnp.bfloat16)
    with compiling_for("gpu"):
        jaxpr = jax.make_jaxpr(jax.value_and_grad(lambda q: jnp.sum(attention(q, q, q))))(q)
    assert matmul_flops(jaxpr) == 7 * 2 * 2 * 4 * 256 * 256 * 64 / 2


@pytest.mark.slow
@needs_cuda_wheels
@pytest.mark.parametrize(
    ("model", "documents", "mesh", "kernels"),
    [
        (LLAMA, Documents.JOINED, MeshOptions(data=2, tensor=2), 0),
        (LLAMA, Documents.SEPARATE, MeshOptions(data=2, tensor=2), 0),
        (replace(MAMBA, width=256), Documents.SEPARATE, MeshOptions(data=2, tensor=2), 2),
        (Mamba2Config(**SIZES), Documents.SEPARATE, MeshOptions(data=2, fsdp=2), 0),
    ],
    ids=["cudnn", "cudnn-documents", "scan", "duality"],
)
def test_a_step_compiled_for_gpus_contains_its_kernels(model, documents, mesh, kernels):
    target = targets.find_target("h200:4")
    assert [device.device_kind for device in target.devices] == ["NVIDIA H200"] * 4
    options = training(model=model, documents=documents, mesh=mesh)
    report = analyze(options, target)
    assert report.fits and 0 < report.mfu_causal_bound <= 1
    trainer = trainer_for(options, target)
    with compiling_for("gpu"), jax.set_mesh(trainer.mesh):
        jaxpr = trainer.step.trace(*step_arguments(options, trainer)).jaxpr
    calls = total(jaxpr, lambda e: 1.0 if e.primitive.name in ("core_map", "mpmd_map") else None)
    assert calls == 4 * model.layers * kernels  # four devices; kernels: forward and backward
    flash = total(jaxpr, lambda e: 1.0 if e.primitive.name.startswith("dot_product_att") else None)
    assert (flash > 0) == (model is LLAMA)


@needs_cuda_wheels
def test_the_scan_kernel_is_refused_on_a_gpu_without_its_instructions():
    target = targets.find_target("a100")
    with pytest.raises(UserError, match=r"compute capability 9\.0 .*or higher, not 8\.0"):
        analyze(training(model=MAMBA), target)
