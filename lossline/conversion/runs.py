"""Convert between Hugging Face folders and run directories.

A public model becomes a run that the evaluator can measure; a run of lossline becomes a folder that
other programs can load.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

import lossline
from lossline import models
from lossline.conversion import read_model, refuse_existing, tokenizer_files, write_model
from lossline.conversion.gguf_file import read_gguf
from lossline.conversion.tokenizer_files import Tokenizer
from lossline.errors import UserError
from lossline.files import local_copy, local_folder, remove_folder, write_json, write_text
from lossline.models.config import ModelConfig
from lossline.places import in_bucket, to_path
from lossline.runs.checkpoints import restore_arrays, write_manifest
from lossline.runs.run_directory import RunDirectory, RunState, RunStatus, claim
from lossline.runs.vocabulary import found_specification
from lossline.vocabularies import Vocabulary, VocabularySpec

VOCABULARY = "vocabulary"  # folder of an imported run
_SAVED_AT_ONCE_GB = 1  # limits the buffers of a save for models of any size


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of ``lossline.convert``.

    A run directory is written as a Hugging Face folder ("writing"); any other source is read as one
    ("reading").

    Attributes:
        source: Hugging Face folder, GGUF file or run directory.
        target: path to create. When reading, it may be a run directory of the same model, which
            then gets one more checkpoint.
        step: reading: training step that the model has reached (default 1); writing: checkpoint to
            write (default: the last).
        dtype: "float32", "bfloat16" or (writing) "float16"; None: as stored.
        pretraining_data: reading: name of the data that the model was trained on.
        tokens: reading: number of tokens that the model was trained on.
        vocabulary: the tokenizer: "bytes", a .model or .json file, or a binding such as
            ``@huggingface()``. None: reading: that of the folder; writing: the run's, if it is
            found by its hash (``lossline.runs.vocabulary``). "none" (writing): no tokenizer.
        context_length: reading: context length in tokens; None: as in config.json.
        shard_gigabytes: writing: largest size of one safetensors file in GB.
    """

    source: str
    target: str
    step: int | None = None
    dtype: str | None = None
    pretraining_data: str | None = None
    tokens: int | None = None
    vocabulary: VocabularySpec | str | None = None
    context_length: int | None = None
    shard_gigabytes: float = 5.0

    def __post_init__(self) -> None:
        dtypes = (None, "float32", "bfloat16", "float16")
        if self.dtype not in dtypes:
            raise UserError(f"convert.dtype = {self.dtype!r}: choose float32, bfloat16 or float16")
        for name in ("step", "tokens", "context_length", "shard_gigabytes"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"convert.{name} = {value}: must be positive and finite")


def convert(options: ConvertOptions) -> None:
    """Read a Hugging Face folder, or write one if the source is a run directory.

    Raises:
        UserError: as in ``import_run`` and ``export_run``.
    """
    if (to_path(options.source) / "facts.json").is_file():
        export_run(options)
    else:
        import_run(options)


def import_run(options: ConvertOptions) -> RunDirectory:
    """Make a run directory with one checkpoint from a Hugging Face folder or a GGUF file.

    The evaluator measures it like any run.

    Raises:
        UserError: the folder cannot be read; a fact that the loss table needs is not bound; there
            is no vocabulary; or the target is another run.
    """
    given, target = to_path(options.source), to_path(options.target, "convert.target")
    if not given.is_dir() and not _is_gguf(given):
        raise UserError(
            f"convert.source: no folder {given}; give one with config.json and safetensors, a GGUF "
            f"file, or a run directory"
        )
    for name in ("pretraining_data", "tokens"):
        if getattr(options, name) is None:
            raise UserError(
                f"convert.{name} is not bound: the loss table needs it. Set it for {given}"
            )
    if options.dtype == "float16":
        raise UserError(
            "convert.dtype = 'float16': a run directory stores float32 or bfloat16; choose one"
        )
    with local_copy(given) as source:
        tokenizer = _tokenizer_of_source(source, options)
        vocabulary = tokenizer.vocabulary
        read = read_gguf if _is_gguf(source) else read_model
        config, params = read(source, param_dtype=options.dtype)
        if config.position_params() and (options.context_length or 0) > config.context_length:
            raise UserError(
                f"convert.context_length = {options.context_length}: {given} has only "
                f"{config.context_length} learned positions; set at most this number"
            )
        if vocabulary.vocab_size > config.vocab_size:
            raise UserError(
                f"{given}: {config.vocab_size} embeddings do not cover the "
                f"{vocabulary.vocab_size} ids of vocabulary {vocabulary.name}; set "
                "convert.vocabulary to the model's own"
            )
        facts = _facts(target, config, vocabulary, options)
        return _write_run(target, config, params, tokenizer, facts, options)


def _is_gguf(source: Path) -> bool:
    return source.suffix == ".gguf" and source.is_file()


def _write_run(
    target: Path,
    config: ModelConfig,
    params: Any,
    tokenizer: Tokenizer,
    facts: dict[str, Any],
    options: ConvertOptions,
) -> RunDirectory:
    step = options.step or 1
    identity = {"__class__": "ImportedRun", "model": config.to_dict()}
    run, there = claim(target, identity)
    _require_room(target, sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
    target.mkdir(parents=True, exist_ok=True)
    with run.lock(), _removed_if_it_fails(None if there else target):
        if step in run.checkpoint_steps():
            raise UserError(
                f"run directory {target} already has a checkpoint {step}; set convert.step to "
                "another step, or give another target"
            )
        write_json(target / "config.json", identity)  # first, so that a killed import can resume
        _keep_facts(run, facts, config)
        tokenizer.keep(target / VOCABULARY)
        _save(run, step, params, data=f"imported {to_path(options.source).resolve().name}")
        last = max(run.checkpoint_steps())
        run.write_status(RunStatus(state=RunState.FINISHED, step=last))
    count = config.num_params().total
    print(f"{target}: {config.family} of {count:,} parameters, checkpoint {step}", flush=True)
    return run


@contextlib.contextmanager
def _removed_if_it_fails(folder: Path | None) -> Iterator[None]:
    """Remove a folder that was created here if the block raises an exception."""
    try:
        yield
    except BaseException:
        for _ in range(10):  # a thread of Orbax may still be writing
            if folder is not None and folder.exists():
                with contextlib.suppress(OSError):
                    remove_folder(folder)
                time.sleep(0.05)
        raise


def _require_room(target: Path, size: float) -> None:
    """Raise a UserError if the disk has less free space than ``size`` bytes."""
    if in_bucket(target):
        return
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{target} needs {size / 1e9:.3f} GB, but {folder} has {free / 1e9:.3f} GB left; free "
            "some space there, or give another target"
        )


def export_run(options: ConvertOptions) -> None:
    """Write a checkpoint of a run as a Hugging Face folder.

    Raises:
        UserError: the checkpoint does not exist or is corrupt; the target exists; or the vocabulary
            is not the run's, or has no tokenizer.json.
    """
    target = to_path(options.target, "convert.target")
    run = RunDirectory.open(options.source)
    refuse_existing(target)  # check before reading the model
    step = options.step or max(run.checkpoint_steps(), default=0)
    config = models.config_from_dict(run.config["model"])
    width = np.dtype(options.dtype or config.param_dtype).itemsize
    _require_room(target, width * config.num_params().total)
    with _tokenizer_of_run(run, options) as tokenizer:
        length = int(run.facts["context_length"])
        also = None if tokenizer is None else partial(tokenizer.write, context_length=length)
        params = restore_arrays(run, step, _on_host(config))
        uploaded = target if in_bucket(target) else None  # on a disk, it appears whole
        with _removed_if_it_fails(uploaded), local_folder(target, mark="config.json") as folder:
            write_model(
                folder,
                config,
                params,
                dtype=options.dtype,
                shard_bytes=int(options.shard_gigabytes * 1e9),
                also=also,
            )
    count = config.num_params().total
    print(f"{target}: checkpoint {step} of {run.path}, {count:,} parameters", flush=True)
    if tokenizer is None:
        print(
            f"{target} has no tokenizer and no ids of special tokens: the run's vocabulary is "
            f"{run.facts['tokenizer']} ({run.facts['vocabulary_hash'][:8]}); give it with "
            "--vocabulary",
            flush=True,
        )


@contextlib.contextmanager
def _tokenizer_of_run(run: RunDirectory, options: ConvertOptions) -> Iterator[Tokenizer | None]:
    """Yield the tokenizer to write for a run; None if it is unknown or not wanted."""
    facts, kept = run.facts, run.path / VOCABULARY
    name, trained = facts["tokenizer"], facts["vocabulary_hash"]
    if options.vocabulary == "none":
        yield None
    elif options.vocabulary is not None:
        found = tokenizer_files.given(options.vocabulary, name=name)
        if found.vocabulary.hash != trained:
            raise UserError(
                f"convert.vocabulary = {options.vocabulary!r} ({found.vocabulary.hash[:8]}) is not "
                f"the vocabulary of {run.path}, which is {name} ({trained[:8]}); give that one"
            )
        yield found
    elif (kept / tokenizer_files.RECORD).is_file():
        with local_copy(kept) as folder:
            yield tokenizer_files.recorded(folder)
    else:
        spec = found_specification(run)
        yield None if spec is None else tokenizer_files.given(spec, name=name)


def _on_host(config: ModelConfig) -> Any:
    """Return the shapes of the parameters, unsharded on one CPU device."""
    where = jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    _, state = models.abstract_state(config)
    return jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=where), nnx.to_pure_dict(state)
    )


def _save(run: RunDirectory, step: int, params: dict[str, Any], *, data: str) -> None:
    """Write a sealed checkpoint of only the parameters; this empties ``params``."""
    folder = (run.path / "checkpoints" / str(step)).resolve()
    if folder.exists():  # without a manifest: left from a killed import
        remove_folder(folder)
    handler = ocp.StandardCheckpointHandler(save_concurrent_gb=_SAVED_AT_ONCE_GB)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(params=handler)) as orbax:
        tree = ocp.args.StandardSave(_taken(params))
        orbax.save(str(folder), args=ocp.args.Composite(params=tree))
    write_manifest(folder, parts=("params",), step=step, kept=True, data=data)


def _taken(params: dict[str, Any]) -> dict[str, Any]:
    """Return the tree as JAX arrays on the CPU.

    ``params`` is emptied leaf by leaf, so that memory holds the model only once.
    """
    cpu = jax.local_devices(backend="cpu")[0]
    taken = {}
    for name in list(params):
        value = params.pop(name)
        taken[name] = _taken(value) if isinstance(value, dict) else jax.device_put(value, cpu)
    return taken


def _tokenizer_of_source(source: Path, options: ConvertOptions) -> Tokenizer:
    if options.vocabulary is not None:
        return tokenizer_files.published(tokenizer_files.given(options.vocabulary), source)
    found = tokenizer_files.of_folder(source)
    if found is None:
        raise UserError(
            f"{source} has no {tokenizer_files.TOKENIZER}; set convert.vocabulary to the "
            "vocabulary of the model"
        )
    return found


def _facts(
    target: Path, config: ModelConfig, vocabulary: Vocabulary, options: ConvertOptions
) -> dict[str, Any]:
    assert options.tokens is not None
    context = options.context_length or config.context_length
    counts = config.num_params()
    return {
        "run_id": target.resolve().name,
        "architecture": config.family,
        "pretraining_data": options.pretraining_data,
        "tokenizer": vocabulary.name,
        "context_length": context,
        "params": counts.total,
        "params_non_embedding": counts.non_embedding,
        "source": "imported",
        "tokens_per_step": options.tokens / (options.step or 1),
        "flops_per_token": config.flops_per_token(context),
        "vocabulary_hash": vocabulary.hash,
        "vocab_size": vocabulary.vocab_size,
        "versions": {"lossline": lossline.__version__},
    }


def _keep_facts(run: RunDirectory, facts: dict[str, Any], config: ModelConfig) -> None:
    """Write the facts, or check that the existing ones are the same."""
    path = run.path / "facts.json"
    if not path.exists():
        write_json(path, facts)
        write_text(run.path / "model.txt", _parameter_table(config))
        return
    there = run.facts
    differing = [name for name in facts if name != "versions" and there.get(name) != facts[name]]
    if differing:
        name = differing[0]
        raise UserError(
            f"run directory {run.path} has {name} = {there.get(name)!r}, but this checkpoint has "
            f"{facts[name]!r}; checkpoints of one run share their facts (tokens per step too). "
            "Give another target"
        )


def _parameter_table(config: ModelConfig) -> str:
    _, state = models.abstract_state(config)
    flat, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(state))
    lines = [
        f"{jax.tree_util.keystr(path, simple=True, separator='/')}  {p.shape}  {p.dtype}"
        for path, p in flat
    ]
    total = sum(math.prod(p.shape) for _, p in flat)
    return "\n".join([*lines, f"total  {total:,}"]) + "\n"
