"""Read and write the folder itself: config.json and one or more safetensors files.

Both work shard by shard and tensor by tensor. Reading needs memory for the model and one tensor;
writing needs memory for the model and one shard.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
from flax import nnx
from safetensors.numpy import save_file

from lossline import models
from lossline.conversion.families import (
    FAMILIES,
    HEADS,
    Family,
    config_from_hf,
    family_of,
    is_ignored,
)
from lossline.conversion.layout import Tensor
from lossline.errors import UserError
from lossline.files import building_anew, publish, write_json
from lossline.models.config import ModelConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_DTYPES = ("F32", "BF16", "F16")
_MAX_LISTED = 5


def read_config(folder: str | Path, *, param_dtype: str = "float32") -> ModelConfig:
    """Return lossline's configuration of the model in a folder.

    Raises:
        UserError: the folder or its config.json does not exist, or the model is not supported.
    """
    path = Path(folder) / "config.json"
    return config_from_hf(_read_json(path), where=str(path), param_dtype=param_dtype)


def read_model(
    folder: str | Path, *, param_dtype: str | None = None
) -> tuple[ModelConfig, dict[str, Any]]:
    """Return configuration and parameters (nested dictionaries of NumPy arrays) of the model in a
    folder.

    Args:
        folder: folder with config.json and safetensors.
        param_dtype: "float32" or "bfloat16"; None: as stored (float16 becomes float32, exactly).

    Raises:
        UserError: the folder, configuration or set of tensors is not supported; a file is not a
            complete safetensors file; or embeddings are tied but the folder has another output
            head.
    """
    folder = Path(folder)
    config = read_config(folder, param_dtype=param_dtype or "float32")
    files = _files(folder)
    family = FAMILIES[_read_json(folder / "config.json")["model_type"]]
    places = {
        _renamed(name, family, files): (tensor, layer)
        for name, tensor, layer in named_tensors(family, config)
    }
    _check_names(folder, family, config, places, files)
    stored = _stored_dtype(folder, places, files)
    config = dataclasses.replace(config, param_dtype=param_dtype or stored)
    params = empty_parameters(config)
    for path, names in files.items():
        # Memory-mapped: only the tensor being copied uses memory.
        with safetensors.safe_open(path, framework="np") as file:
            for name in names:
                if name in places:
                    fill(params, *places[name], file.get_tensor(name), f"{folder}: {name}")
    if config.tie_embeddings:
        _refuse_another_head(folder, params["embedding"], files)
    return config, params


def write_model(
    folder: str | Path,
    config: ModelConfig,
    params: Mapping[str, Any],
    *,
    dtype: str | None = None,
    shard_bytes: int = 5 * 10**9,
    also: Callable[[Path], Mapping[str, Any]] | None = None,
) -> None:
    """Write a new folder that transformers and ``read_model`` can open, completely or not at all.

    Args:
        folder: path that does not exist yet.
        config, params: as returned by ``read_model``, or from a checkpoint.
        dtype: "float32", "bfloat16" or "float16"; None: the dtype of the parameters.
        shard_bytes: largest size of one file in bytes.
        also: writes further files into the folder and returns their entries of config.json (a
            tokenizer, with the ids of its special tokens).

    Raises:
        UserError: the folder exists, the model has no Hugging Face form, or a parameter is too
            large for the dtype.
    """
    folder, family = Path(folder), family_of(config)
    refuse_existing(folder)
    dtype = dtype or config.param_dtype
    with building_anew(folder) as partial:
        _write_shards(partial, family, config, params, np.dtype(dtype), shard_bytes)
        common = {
            "architectures": [family.architecture],
            "model_type": family.model_type,
            "vocab_size": config.vocab_size,
            "tie_word_embeddings": config.tie_embeddings,
            "torch_dtype": dtype,
            # Null where unknown: transformers would give the ids of some published model.
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        }
        entries = common | family.to_hf(config) | dict(also(partial) if also else {})
        write_json(partial / "config.json", entries, indent=2)
        publish(partial, folder, mark="config.json")


def refuse_existing(folder: Path) -> None:
    """Raise a UserError if the path exists: a model is written to a new folder.

    Raises:
        UserError: the path exists.
    """
    if folder.exists() or folder.is_symlink():
        raise UserError(f"{folder} already exists; delete it or give another path")


# --- reading -------------------------------------------------------------------------------------


def _files(folder: Path) -> dict[Path, dict[str, str]]:
    """Return the safetensors files, with the dtype of every tensor in each."""
    index = folder / INDEX
    single = (folder / SINGLE).is_file()
    if index.is_file():
        names = _shards(index)
        if single and SINGLE not in names:
            raise UserError(
                f"{folder} has two sets of weights: {SINGLE}, which transformers reads, and the "
                f"{len(names)} files listed in {INDEX}; remove one of them"
            )
    elif single:
        names = [SINGLE]
    else:
        raise UserError(f"{folder} has no {SINGLE}{_what_else(folder)}")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise UserError(f"{folder}: {name}, listed in {INDEX}, is missing; download it again")
    return {folder / name: _dtypes(folder / name) for name in names}


def _shards(index: Path) -> list[str]:
    """Return the files listed in an index."""
    tree = _read_json(index)
    where = tree.get("weight_map")
    if not isinstance(where, dict) or not all(isinstance(name, str) for name in where.values()):
        raise UserError(f"{index} has no weight_map of tensors to files; download it again")
    return sorted(set(where.values()))


def _dtypes(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{path} is not a complete safetensors file ({error}); download it again"
        ) from None


def _what_else(folder: Path) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt*") for path in folder.glob(pattern))
    if not pickles:
        return "; give the folder of a model"
    return (
        f", only {', '.join(pickles[:_MAX_LISTED])}, which may be pickles and are never loaded; "
        "convert them to safetensors if you trust their source"
    )


def _stored_dtype(
    folder: Path, places: Mapping[str, Any], files: Mapping[Path, Mapping[str, str]]
) -> str:
    """Return the smaller of float32 and bfloat16 that holds all values of the tensors to read."""
    kinds = {dtype for dtypes in files.values() for name, dtype in dtypes.items() if name in places}
    if unknown := sorted(kinds - set(_DTYPES)):
        raise UserError(
            f"{folder}: tensors of dtype {', '.join(unknown)} are not supported (quantized "
            f"models); use a model in {', '.join(_DTYPES)}"
        )
    return "bfloat16" if kinds == {"BF16"} else "float32"


def _check_names(
    folder: Path,
    family: Family,
    config: ModelConfig,
    places: Mapping[str, Any],
    files: Mapping[Path, Mapping[str, str]],
) -> None:
    counts = Counter(name for names in files.values() for name in names)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise UserError(f"{folder} has {listed(twice)} in more than one file; download it again")
    extra = [name for name in counts.keys() - places if not is_ignored(family, config, name)]
    problems = [
        f"{what} {listed(names)}"
        for what, names in (("missing", places.keys() - counts), ("unexpected", extra))
        if names
    ]
    if problems:
        raise UserError(
            f"{folder}: config.json does not describe the weights: {'; '.join(problems)}. Use files"
            f" of the same model"
        )


def listed(names: Collection[str]) -> str:
    """Return the number and the first names of tensors."""
    shown = ", ".join(sorted(names)[:_MAX_LISTED])
    more = ", …" if len(names) > _MAX_LISTED else ""
    return f"{len(names)} tensors: {shown}{more}"


def named_tensors(family: Family, config: ModelConfig) -> Iterator[tuple[str, Tensor, int | None]]:
    """Yield every Hugging Face tensor with its layer (None outside the layers)."""
    for tensor in family.tensors(config):
        if not tensor.is_layered:
            yield tensor.name, tensor, None
            continue
        for layer in range(config.layers):
            yield tensor.name.format(layer=layer), tensor, layer


def _renamed(name: str, family: Family, files: Mapping[Path, Mapping[str, str]]) -> str:
    """Return the name of a tensor with the prefix that the names in these files have."""
    if not name.startswith(family.prefix):
        return name
    stored = [stored for names in files.values() for stored in names]
    for prefix in (family.prefix, *family.other_prefixes):
        if any(other.startswith(prefix) for other in stored):
            return prefix + name.removeprefix(family.prefix)
    return name.removeprefix(family.prefix)


def empty_parameters(config: ModelConfig) -> dict[str, Any]:
    """Return parameters of zeros, nested dictionaries of NumPy arrays."""
    _, state = models.abstract_state(config)
    return jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), nnx.to_pure_dict(state))


def fill(
    params: dict[str, Any], tensor: Tensor, layer: int | None, theirs: np.ndarray, where: str
) -> None:
    """Copy a Hugging Face tensor into lossline's parameters, in place.

    Args:
        params: parameters to change.
        tensor: the tensor, and the parameters that it holds.
        layer: number of its layer; None outside the layers.
        theirs: its values.
        where: file and name, for messages.

    Raises:
        UserError: its shape is not that of the configuration.
    """
    targets = [_slot(params, path, layer) for path, _ in tensor.parts]
    shapes = [target.shape for target in targets]
    if theirs.shape != tensor.shape(shapes):
        raise UserError(
            f"{where} has shape {theirs.shape}, but config.json needs {tensor.shape(shapes)}; "
            "use files of the same model"
        )
    for target, ours in zip(targets, tensor.to_ours(theirs, shapes), strict=True):
        target[...] = ours.astype(target.dtype)


def _refuse_another_head(
    folder: Path, embedding: np.ndarray, files: Mapping[Path, Mapping[str, str]]
) -> None:
    """Raise a UserError if embeddings are tied but the folder has a different output head.

    For such a folder transformers 4 uses the embeddings and transformers 5 uses the head.
    """
    for path, names in files.items():
        for name in HEADS & names.keys():
            with safetensors.safe_open(path, framework="np") as file:
                head = file.get_tensor(name)
            if not np.array_equal(head.astype(embedding.dtype), embedding):
                raise UserError(
                    f"{folder}: {name} differs from the embeddings, but config.json ties the two; "
                    "set tie_word_embeddings as the model was trained, or remove the tensor"
                )


def _slot(params: Mapping[str, Any], path: str, layer: int | None) -> np.ndarray:
    """Return a parameter of lossline, or its slice for one layer (a view)."""
    leaf: Any = params
    for name in path.split("/"):
        leaf = leaf[name]
    return leaf if layer is None else leaf[layer]


# --- writing -------------------------------------------------------------------------------------


def _write_shards(
    folder: Path,
    family: Family,
    config: ModelConfig,
    params: Mapping[str, Any],
    dtype: np.dtype,
    shard_bytes: int,
) -> None:
    shards = _plan(family, config, params, dtype, shard_bytes)
    where: dict[str, str] = {}
    total = 0
    for number, names in enumerate(shards, start=1):
        file = (
            SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        )
        arrays = {
            name: _theirs(config, params, tensor, layer, dtype) for name, tensor, layer in names
        }
        path = folder / file
        path.touch()
        mode = path.stat().st_mode
        try:
            save_file(arrays, path, metadata={"format": "pt"})
            path.chmod(mode)  # safetensors lets only the owner read it
        except safetensors.SafetensorError as error:
            error.add_note(f'local file "{path}"')
            raise
        where.update(dict.fromkeys(arrays, file))
        total += sum(array.nbytes for array in arrays.values())
    if len(shards) > 1:
        write_json(
            folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where}, indent=2
        )


def _plan(
    family: Family,
    config: ModelConfig,
    params: Mapping[str, Any],
    dtype: np.dtype,
    shard_bytes: int,
) -> list[list[tuple[str, Tensor, int | None]]]:
    """Return the tensors of each file."""
    shards: list[list[tuple[str, Tensor, int | None]]] = [[]]
    filled = 0
    for name, tensor, layer in named_tensors(family, config):
        parts = (_slot(params, path, layer) for path, _ in tensor.parts)
        size = sum(part.size for part in parts) * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, tensor, layer))
        filled += size
    return shards


def _theirs(
    config: ModelConfig,
    params: Mapping[str, Any],
    tensor: Tensor,
    layer: int | None,
    dtype: np.dtype,
) -> np.ndarray:
    """Return a Hugging Face tensor from lossline's parameters, without the padding of the
    vocabulary.
    """
    parts = []
    for path, _ in tensor.parts:
        ours = np.asarray(_slot(params, path, layer))
        if path == "embedding":
            ours = ours[: config.vocab_size]
        elif path == "unembed":
            ours = ours[:, : config.vocab_size]
        parts.append(ours)
    theirs = tensor.to_theirs(parts)
    with np.errstate(over="ignore"):
        written = theirs.astype(dtype, copy=False)
    if np.any(np.isinf(written) & np.isfinite(theirs)):
        name, largest = tensor.name.format(layer=layer), np.max(np.abs(theirs))
        raise UserError(
            f"{name} has a value of {largest:.3g}, too large for {dtype}; choose another dtype"
        )
    return np.ascontiguousarray(written)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.parent.is_dir():
        raise UserError(
            f"{path.parent} does not exist; give a folder with config.json and safetensors"
        )
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{path} is missing; give a folder with config.json and safetensors"
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(tree, dict):
        raise UserError(f"{path} is not a JSON object of entries; download it again")
    return tree
