"""Record the results of ``transformers``, so that parity is tested where it is not installed.

    python3.11 -m venv peers && peers/bin/pip install torch==2.14.1 transformers==5.24.0
    peers/bin/python tests/models/make_golden.py

This writes golden.npz next to this file. It holds for each case of ``CASES`` the config.json,
tokens, logits and the gradient of the mean cross-entropy by every tensor, all float32, with the
names that ``save_pretrained`` uses. Weights are not stored: ``seeded_weights`` makes them again.

Run it again when ``CASES`` or ``seeded_weights`` change, or for a newer transformers. Never run it
because test_parity.py fails: then a model of lossline has changed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_name("golden.npz")
SEED = 20  # seed of the recorded weights and tokens
ROWS = 2

_LLAMA3_SCALING = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model to record.

    Attributes:
        model_type: type in config.json.
        length: tokens in a row.
        options: other entries of config.json.
    """

    model_type: str
    length: int
    options: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record:
    """Results of ``transformers`` for one model; arrays by the names of the tensors in its folder.

    Attributes:
        config: config.json.
        tokens: [B, L + 1]; inputs are all but the last token, targets all but the first.
        weights: weights of the model.
        logits: [B, L, V].
        gradients: gradients of the mean cross-entropy over all targets.
    """

    config: dict[str, Any]
    tokens: np.ndarray
    weights: dict[str, np.ndarray]
    logits: np.ndarray
    gradients: dict[str, np.ndarray]


def _llama(vocab: int, width: int, layers: int, heads: int, **options: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 256,
        **options,
    }


# The default ids are outside this small vocabulary, and a padding token would have no gradient.
_ENDS = {"pad_token_id": None, "eos_token_id": 1}


def _gpt2(vocab: int, width: int, layers: int, heads: int, **options: Any) -> dict[str, Any]:
    return {"vocab_size": vocab, "n_embd": width, "n_layer": layers, "n_head": heads, **options}


def _mamba2(vocab: int, width: int, layers: int, heads: int, **options: Any) -> dict[str, Any]:
    shape = {"hidden_size": width, "num_hidden_layers": layers, "num_heads": heads}
    return {"vocab_size": vocab, **shape, "head_dim": 2 * width // heads, **options}


def _mamba(vocab: int, width: int, layers: int, **options: Any) -> dict[str, Any]:
    return {"vocab_size": vocab, "hidden_size": width, "num_hidden_layers": layers, **options}


# Rows of 130 tokens are longer than one block of the blocked attention. Odd lengths leave the last
# chunk of the scan partly empty.
CASES = {
    "llama-grouped": Case(
        model_type="llama",
        length=21,
        options=_llama(37, 16, 2, 4, num_key_value_heads=2, intermediate_size=24),
    ),
    "llama-long": Case(
        model_type="llama",
        length=130,
        options=_llama(11, 12, 1, 3, intermediate_size=20, rms_norm_eps=1e-5),
    ),
    "llama-tied-scaled": Case(
        model_type="llama",
        length=40,
        options=_llama(
            29,
            24,
            2,
            3,
            num_key_value_heads=1,
            intermediate_size=28,
            tie_word_embeddings=True,
            rope_parameters=_LLAMA3_SCALING,
        ),
    ),
    "qwen3": Case(
        model_type="qwen3",
        length=13,
        options=_llama(
            17, 12, 1, 2, num_key_value_heads=1, head_dim=6, intermediate_size=16, **_ENDS
        ),
    ),
    # Heads that together are wider than the model; 3 heads do not divide its 8 channels.
    "llama-wide-heads": Case(
        model_type="llama",
        length=9,
        options=_llama(11, 8, 1, 2, num_key_value_heads=1, head_dim=6, intermediate_size=8),
    ),
    "qwen3-wide-heads": Case(
        model_type="qwen3",
        length=9,
        options=_llama(
            11,
            8,
            1,
            3,
            num_key_value_heads=1,
            head_dim=4,
            intermediate_size=8,
            tie_word_embeddings=True,
            **_ENDS,
        ),
    ),
    "olmo": Case(
        model_type="olmo", length=13, options=_llama(17, 12, 1, 2, intermediate_size=16, **_ENDS)
    ),
    "olmo2": Case(
        model_type="olmo2",
        length=13,
        options=_llama(17, 12, 1, 2, num_key_value_heads=1, intermediate_size=16, **_ENDS),
    ),
    "gemma3": Case(
        model_type="gemma3_text",
        length=13,
        options=_llama(
            11,
            8,
            2,
            2,
            num_key_value_heads=1,
            head_dim=6,
            intermediate_size=8,
            sliding_window=5,
            sliding_window_pattern=2,
            rope_scaling={"rope_type": "linear", "factor": 4.0},
            rope_local_base_freq=100.0,
            query_pre_attn_scalar=9,
            **_ENDS,
        ),
    ),
    "gpt2": Case(
        model_type="gpt2", length=21, options=_gpt2(31, 16, 2, 4, n_positions=24, n_inner=24)
    ),
    "gpt2-untied": Case(
        model_type="gpt2",
        length=30,
        options=_gpt2(23, 12, 2, 2, n_positions=30, tie_word_embeddings=False),
    ),
    "gpt-neox": Case(
        model_type="gpt_neox",
        length=21,
        options=_llama(37, 16, 2, 2, intermediate_size=24, rotary_pct=0.25),
    ),
    "gpt-neox-sequential": Case(
        model_type="gpt_neox",
        length=33,
        options=_llama(
            29, 12, 2, 3, intermediate_size=24, rotary_pct=0.5, use_parallel_residual=False
        ),
    ),
    "mamba": Case(
        model_type="mamba", length=21, options=_mamba(37, 16, 2, state_size=4, time_step_rank=1)
    ),
    "mamba-untied": Case(
        model_type="mamba",
        length=45,
        options=_mamba(
            29,
            12,
            2,
            state_size=7,
            expand=3,
            conv_kernel=3,
            time_step_rank=2,
            tie_word_embeddings=False,
        ),
    ),
    "mamba2": Case(
        model_type="mamba2",
        length=21,
        options=_mamba2(31, 12, 2, 3, state_size=5, n_groups=1, chunk_size=8),
    ),
    "mamba2-groups": Case(
        model_type="mamba2",
        length=77,
        options=_mamba2(
            19,
            16,
            1,
            4,
            state_size=6,
            n_groups=2,
            conv_kernel=3,
            chunk_size=16,
            tie_word_embeddings=True,
        ),
    ),
}


def seeded_weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Return weights by name with which every part of a model affects the result.

    The same arguments give the same weights with every version of NumPy: the stream of
    ``RandomState`` is frozen.
    """
    random = np.random.RandomState(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        uniform = random.uniform(-1, 1, shape)
        if name.endswith(("dt_proj.bias", "dt_bias")):
            weight = 1.5 * uniform - 2  # step sizes of 0.03 to 0.5, so that the state persists
        elif name.endswith("A_log"):
            weight = 1.5 * uniform
        elif len(shape) == 1:  # biases around 0; scales, and the skip D, around 1
            weight = 0.3 * uniform + (not name.endswith("bias"))
        elif "emb" in name or "wte" in name or "wpe" in name:
            weight = uniform
        else:
            weight = uniform * 2 / max(shape[-1], 4) ** 0.5
        weights[name] = weight.astype(np.float32)
    return weights


def record(case: Case, seed: int) -> Record:
    """Run ``transformers`` on a case; needs torch, transformers and safetensors."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from safetensors.numpy import load_file, save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(case.model_type, **case.options)
    vocab_size = case.options["vocab_size"]
    tokens = np.random.RandomState(seed).randint(0, vocab_size, (ROWS, case.length + 1))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        shapes = {name: array.shape for name, array in load_file(file).items()}
        weights = seeded_weights(shapes, seed)
        save_file(weights, file, metadata={"format": "pt"})
        model, loading = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        if any(loading.values()):
            raise RuntimeError(f"transformers did not load all weights: {loading}")
        model.eval()  # no dropout
        logits = model(torch.tensor(tokens[:, :-1]), use_cache=False).logits
        targets = torch.tensor(tokens[:, 1:])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        for parameter in model.parameters():
            parameter.data = parameter.grad
        model.save_pretrained(folder)  # the gradients, with the names and ties of the weights
        gradients = load_file(file)
        tree = json.loads((Path(folder) / "config.json").read_text())
    return Record(
        config=tree,
        tokens=tokens.astype(np.int32),
        weights=weights,
        logits=logits.detach().numpy(),
        gradients=gradients,
    )


def read_golden() -> dict[str, Record]:
    """Return the recorded cases."""
    with np.load(GOLDEN) as file:
        about = json.loads(str(file["about"]))
        return {name: _read_case(file, name, about["seed"]) for name in about["cases"]}


def _read_case(file: Mapping[str, np.ndarray], name: str, seed: int) -> Record:
    start = f"{name}/gradients/"
    gradients = {key.removeprefix(start): file[key] for key in file if key.startswith(start)}
    return Record(
        config=json.loads(str(file[f"{name}/config"])),
        tokens=file[f"{name}/tokens"],
        weights=seeded_weights({key: array.shape for key, array in gradients.items()}, seed),
        logits=file[f"{name}/logits"],
        gradients=gradients,
    )


def write_golden() -> None:
    """Record all cases."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    import transformers

    torch.set_num_threads(1)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, np)}
    about = {"versions": versions, "seed": SEED, "cases": list(CASES)}
    arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(about))}
    for name, case in CASES.items():
        found = record(case, SEED)
        arrays[f"{name}/config"] = np.array(json.dumps(found.config))
        arrays[f"{name}/tokens"] = found.tokens
        arrays[f"{name}/logits"] = found.logits
        for key, array in found.gradients.items():
            arrays[f"{name}/gradients/{key}"] = array
    partial = GOLDEN.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(GOLDEN)
    print(f"{GOLDEN}: {len(CASES)} cases, {GOLDEN.stat().st_size / 1e3:.0f} kB, {versions}")


if __name__ == "__main__":
    write_golden()
