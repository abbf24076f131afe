"""Cases of `train_throughput.py` for each machine: models, batches, contenders and targets."""

from dataclasses import dataclass, field, replace
from typing import Any

Model = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One implementation in one environment.

    Attributes:
        name: name in the table.
        library: "ours", "torch" or "jla"; selects the worker script and its Python.
        task: options of the worker in addition to the task of the case.
    """

    name: str
    library: str
    task: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A ratio to reach.

    Attributes:
        faster, slower: names of two contenders. For "peak", ``slower`` is a dtype.
        ratio: the ratio.
        of: "speed": ``faster`` needs at least ``ratio`` times the tokens per second of ``slower``;
            "memory": at most 1 / ratio of its memory; "peak": at least this share of the machine's
            rate.
    """

    faster: str
    slower: str
    ratio: float
    of: str = "speed"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One task that all contenders run in turns.

    Attributes:
        name: name of the case.
        kind: "model" (training steps), "mixer" (forward and backward), or "matmul", "compile",
            "train" (values without a comparison).
        task: options of every worker: model, batch, length.
        contenders: contenders in the order of a round.
        flops_per_token: training operations per token; None: from the configuration.
        targets: ratios to reach.
        shared_weights: start all contenders from the same weights, so that their losses agree.
        together: run all workers at once, so that rounds can be interleaved. False: run one after
            the other, because their states do not fit the device together.
        share: share of the time budget, relative to the other cases.
    """

    name: str
    kind: str
    task: dict[str, Any]
    contenders: tuple[Contender, ...]
    flops_per_token: float | None = None
    targets: tuple[Target, ...] = ()
    shared_weights: bool = False
    together: bool = True
    share: float = 1.0


def llama(**sizes: Any) -> Model:
    """Return a configuration of lossline, for ``lossline.models.config_from_dict``."""
    return {"__class__": "LlamaConfig", "scan_layers": False, **sizes}


def in_dtype(model: Model, dtype: str) -> dict[str, Any]:
    """Return the task of a contender: a model in an activation dtype."""
    return {"model": {**model, "activation_dtype": dtype}, "dtype": dtype}


def torch_llama(name: str, model: Model, dtype: str, code: str, compiled: bool) -> Contender:
    """Return a PyTorch Llama as contender."""
    task = in_dtype(model, dtype) | {"code": code, "compile": compiled}
    return Contender(name=name, library="torch", task=task)


def llama_case(
    name: str, model: Model, *, batch: int, flops: float | None, products: dict[str, list[int]]
) -> Case:
    """Return a case of training steps of a Llama, lossline and PyTorch, float32 and bfloat16.

    ``products`` gives the sizes at which the machine's rate of matrix products is measured, in the
    same rounds.
    """
    contenders = [
        Contender(
            name="matrix products", library="ours", task={"kind": "matmul", "sizes": products}
        ),
        Contender(name="ours bf16", library="ours", task=in_dtype(model, "bfloat16")),
        Contender(name="ours f32", library="ours", task=in_dtype(model, "float32")),
    ]
    half = "bfloat16"
    contenders += [
        torch_llama("torch f32", model, "float32", "lean", False),
        torch_llama("torch f32 compile", model, "float32", "lean", True),
        torch_llama("torch bf16", model, half, "lean", False),
        torch_llama("torch bf16 compile", model, half, "lean", True),
        torch_llama("transformers bf16", model, half, "library", False),
        torch_llama("transformers bf16 compile", model, half, "library", True),
    ]
    targets = (
        Target(faster="ours bf16", slower="torch bf16 compile", ratio=1.2),
        Target(faster="ours bf16", slower="transformers bf16", ratio=1.5),
        Target(faster="ours f32", slower="torch f32", ratio=1.0),
        Target(faster="ours f32", slower="torch f32", ratio=1 / 1.2, of="memory"),
        Target(faster="ours bf16", slower="bfloat16", ratio=0.45, of="peak"),
        Target(faster="ours f32", slower="float32", ratio=0.6, of="peak"),
    )
    return Case(
        name=name,
        kind="model",
        task={"batch": batch, "length": model["context_length"], "model": model},
        contenders=tuple(contenders),
        flops_per_token=flops,
        targets=targets,
        shared_weights=True,
        share=10.0,  # many contenders, some with steps of ten seconds
    )


def mamba_case(length: int, *, width: int = 256, batch: int = 4) -> Case:
    """Return a case of forward and backward of one Mamba-1 mixer in float32."""
    model = {
        "__class__": "MambaConfig",
        "vocab_size": 8,
        "width": width,
        "layers": 1,
        "state": 16,
        "scan_chunk": 16,  # the default of 8 compiles in half the time, but its backward is slower
        "context_length": length,
        "activation_dtype": "float32",
    }
    contenders = (
        Contender(name="ours", library="ours"),
        Contender(name="mambapy", library="torch", task={"code": "mambapy"}),
        Contender(name="transformers + mambapy", library="torch", task={"code": "library"}),
        Contender(name="jax-linear-attention", library="jla"),
    )
    targets = [
        Target(faster="ours", slower="mambapy", ratio=3.0),
        Target(faster="ours", slower="jax-linear-attention", ratio=3.5),
    ]
    if length >= 2048:
        targets.append(Target(faster="ours", slower="mambapy", ratio=5.0, of="memory"))
    return Case(
        name=f"mamba {length}",
        kind="mixer",
        task={"batch": batch, "length": length, "model": model},
        contenders=contenders,
        targets=tuple(targets),
    )


def mamba2_case(length: int, *, width: int = 256, batch: int = 4) -> Case:
    """Return a case of forward and backward of one Mamba-2 mixer in float32, chunks of 64."""
    model = {
        "__class__": "Mamba2Config",
        "vocab_size": 8,
        "width": width,
        "layers": 1,
        "state": 64,
        "head_channels": 64,
        "scan_chunk": 64,
        "context_length": length,
        "activation_dtype": "float32",
    }
    return Case(
        name=f"mamba2 {length}",
        kind="mixer",
        task={"batch": batch, "length": length, "model": model},
        contenders=(
            Contender(name="ours", library="ours"),
            Contender(name="transformers", library="torch", task={"code": "library"}),
        ),
        targets=(Target(faster="ours", slower="transformers", ratio=1.35),),
    )


def matmul_case(**sizes: list[int]) -> Case:
    """Return a case that measures the machine's rate of matrix products."""
    return Case(
        name="matmul",
        kind="matmul",
        task={"sizes": sizes},
        contenders=(Contender(name="ours", library="ours"),),
    )


def compile_case(model: Model, depths: list[int]) -> Case:
    """Return a case that measures the seconds to trace and compile the step, by depth."""
    return Case(
        name="compile",
        kind="compile",
        task={"batch": 4, "length": model["context_length"], "model": model, "depths": depths},
        contenders=(Contender(name="ours", library="ours"),),
    )


def train_case(model: Model, *, batch: int, steps: int) -> Case:
    """Return a case of the speed that `python -m lossline.train` logs for the model of "llama"."""
    task = {"batch": batch, "length": model["context_length"], "steps": steps}
    model = {**model, "activation_dtype": "bfloat16"}
    return Case(
        name="train",
        kind="train",
        task=task | {"model": model},
        contenders=(Contender(name="ours", library="ours"),),
    )


LLAMA_11M = llama(vocab_size=8192, width=256, layers=8, heads=4, mlp_width=768, context_length=512)
LLAMA_TINY = llama(vocab_size=320, width=64, layers=2, heads=2, mlp_width=128, context_length=64)
NARROW = llama(vocab_size=512, width=64, layers=2, heads=2, mlp_width=128, context_length=128)

CPU = (
    # 6 · 8.91M + 12 · layers · width · length, with the full square of scores.
    llama_case(
        "llama",
        LLAMA_11M,
        batch=8,
        flops=66.1e6,
        products={"float32": [1024, 2048], "bfloat16": [1024, 2048, 4096]},
    ),
    train_case(LLAMA_11M, batch=8, steps=16),
    mamba_case(512),
    mamba_case(2048),
    mamba2_case(512),
    mamba2_case(2048),
    compile_case(NARROW, [12, 24, 48]),
)

SMALL = (
    llama_case(
        "llama",
        LLAMA_TINY,
        batch=2,
        flops=None,
        products={"float32": [256], "bfloat16": [256]},
    ),
    train_case(LLAMA_TINY, batch=2, steps=4),
    mamba_case(32, width=32, batch=1),
    mamba2_case(128, width=32, batch=1),
    compile_case(NARROW, [2, 4]),
)


def gpu_case(
    name: str, model: Model, *, batch: int, remat: str, targets: tuple[Target, ...]
) -> Case:
    """Return a case of training steps of a large model in bfloat16, with the peers that have it."""
    model = {**model, "scan_layers": True, "remat": remat, "activation_dtype": "bfloat16"}
    contenders = [
        Contender(name="ours bf16", library="ours"),
        Contender(name="jax-linear-attention", library="jla", task={"remat": remat}),
    ]
    if model["__class__"] == "LlamaConfig":
        contenders.append(torch_llama("torch bf16 compile", model, "bfloat16", "lean", True))
    if model["__class__"] == "MambaConfig":  # "auto" does not choose the GPU kernel yet
        kernel = {"model": {**model, "scan_implementation": "pallas"}}
        contenders.insert(0, Contender(name="ours bf16 pallas", library="ours", task=kernel))
    return Case(
        name=name,
        kind="model",
        task={"batch": batch, "length": model["context_length"], "model": model},
        contenders=tuple(contenders),
        targets=targets,
        together=False,
    )


def gpu_targets(share: float, *, peers: tuple[str, ...] = ()) -> tuple[Target, ...]:
    """Return targets: this share of the peak of the GPU, and at least the speed of every peer."""
    peak = Target(faster="ours bf16", slower="bfloat16", ratio=share, of="peak")
    return (peak, *(Target(faster="ours bf16", slower=peer, ratio=1.0) for peer in peers))


BIG = {"vocab_size": 32000, "context_length": 2048}
MAMBA_1B3 = {"layers": 48, "width": 2048, **BIG}
GPU = (
    matmul_case(bfloat16=[8192]),
    gpu_case(
        "llama 124M",
        llama(width=768, layers=12, heads=12, mlp_width=2048, **BIG),
        batch=32,
        remat="none",
        targets=gpu_targets(0.45),
    ),
    gpu_case(
        "llama 400M",
        llama(width=1024, layers=24, heads=16, mlp_width=2816, **BIG),
        batch=16,
        remat="none",
        targets=gpu_targets(0.45),
    ),
    gpu_case(
        "llama 1.3B",
        llama(width=2048, layers=24, heads=16, mlp_width=5632, **BIG),
        batch=8,
        remat="dots",
        targets=gpu_targets(0.55, peers=("torch bf16 compile", "jax-linear-attention")),
    ),
    gpu_case(
        "mamba2 1.3B",
        {"__class__": "Mamba2Config", "state": 128, "head_channels": 64, **MAMBA_1B3},
        batch=4,
        remat="dots",
        targets=(Target(faster="ours bf16", slower="jax-linear-attention", ratio=1.0),),
    ),
    gpu_case(
        "mamba 1.3B",
        {"__class__": "MambaConfig", "state": 16, **MAMBA_1B3},
        batch=4,
        remat="dots",
        targets=(),
    ),
)


def cases(*, device: str, small: bool) -> tuple[Case, ...]:
    """Return the cases of a machine."""
    if not small:
        return GPU if device == "gpu" else CPU
    if device != "gpu":
        return SMALL
    tiny = tuple(_shrunk(case) for case in GPU if case.kind == "model")
    return (matmul_case(bfloat16=[1024]), *tiny)


def _shrunk(case: Case) -> Case:
    """Return the same case at a size of seconds."""
    small = {"layers": 2, "width": 128, "context_length": 64, "vocab_size": 512}
    if case.task["model"]["__class__"] == "LlamaConfig":
        small |= {"heads": 2, "mlp_width": 256}

    def shrunk(task: dict[str, Any]) -> dict[str, Any]:
        return {**task, "model": {**task["model"], **small}} if "model" in task else task

    contenders = tuple(replace(c, task=shrunk(c.task)) for c in case.contenders)
    task = {**shrunk(case.task), "batch": 2, "length": 64}
    return replace(case, task=task, contenders=contenders)
