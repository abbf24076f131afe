"""Contenders of `train_throughput.py` from PyTorch.

They are a short hand-written Llama, `transformers`, and the state-space mixers of `mambapy` and
`transformers`.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from train_throughput_worker import serve


def facts(device: torch.device) -> dict[str, Any]:
    """Return the versions that affect the speed, and the device."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("torch", "transformers", "mambapy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    kind = torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu"
    return {"versions": found, "device": kind}


class LeanBlock(nn.Module):
    """One layer with fused query/key/value and gate/up projections and
    ``scaled_dot_product_attention``.
    """

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        D, F, H = model["width"], model["mlp_width"], model["heads"]
        self.heads, self.groups, self.head_dim = H, model.get("kv_heads") or H, D // H
        self.attention_norm = nn.RMSNorm(D, eps=1e-5)
        self.qkv = nn.Linear(D, (H + 2 * self.groups) * self.head_dim, bias=False)
        self.out = nn.Linear(D, D, bias=False)
        self.mlp_norm = nn.RMSNorm(D, eps=1e-5)
        self.gate_up = nn.Linear(D, 2 * F, bias=False)
        self.down = nn.Linear(F, D, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        B, L, D = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(B, L, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split([self.heads, self.groups, self.groups], dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=self.groups != self.heads
        )
        x = x + self.out(y.transpose(1, 2).reshape(B, L, D))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply rotary positions to halves, in the dtype of x."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class LeanLlama(nn.Module):
    """Llama that returns logits: no dropout, no biases, untied embeddings."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        V, D = model["vocab_size"], model["width"]
        self.embedding = nn.Embedding(V, D)
        self.blocks = nn.ModuleList(LeanBlock(model) for _ in range(model["layers"]))
        self.final_norm = nn.RMSNorm(D, eps=1e-5)
        self.unembed = nn.Linear(D, V, bias=False)
        half = D // model["heads"] // 2
        angles = torch.outer(
            torch.arange(model["context_length"]).float(), 1e4 ** (-torch.arange(half) / half)
        )
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        length = tokens.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length])
        return self.unembed(self.final_norm(x))

    @torch.no_grad()
    def take(self, stored: Any) -> None:
        """Load weights of lossline (``train_throughput_ours.Step``)."""
        width = self.embedding.weight.shape[1]
        put(self.embedding.weight, stored["embedding"])
        put(self.unembed.weight, stored["unembed"].T)
        for i, block in enumerate(self.blocks):
            for name, target in (("attention", block.qkv), ("mlp", block.gate_up)):
                names = ("query", "key", "value") if name == "attention" else ("gate", "up")
                parts = [stored[f"blocks/{name}/{part}"][i] for part in names]
                put(target.weight, np.concatenate([flat(part) for part in parts], axis=1).T)
            put(block.out.weight, stored["blocks/attention/out"][i].reshape(-1, width).T)
            put(block.down.weight, stored["blocks/mlp/down"][i].T)


class LibraryLlama(nn.Module):
    """``transformers.LlamaForCausalLM`` that returns only logits."""

    def __init__(self, model: dict[str, Any]) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=model["vocab_size"],
            hidden_size=model["width"],
            intermediate_size=model["mlp_width"],
            num_hidden_layers=model["layers"],
            num_attention_heads=model["heads"],
            num_key_value_heads=model.get("kv_heads") or model["heads"],
            max_position_embeddings=model["context_length"],
            rms_norm_eps=1e-5,
            tie_word_embeddings=False,
            use_cache=False,
            attn_implementation="sdpa",
        )
        self.model = LlamaForCausalLM(config)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=tokens).logits

    @torch.no_grad()
    def take(self, stored: Any) -> None:
        """Load weights of lossline."""
        inner = self.model.model
        put(inner.embed_tokens.weight, stored["embedding"])
        put(self.model.lm_head.weight, stored["unembed"].T)
        for i, layer in enumerate(inner.layers):
            attention, mlp = layer.self_attn, layer.mlp
            for name, target in (
                ("query", attention.q_proj),
                ("key", attention.k_proj),
                ("value", attention.v_proj),
            ):
                put(target.weight, flat(stored[f"blocks/attention/{name}"][i]).T)
            out = stored["blocks/attention/out"][i]
            put(attention.o_proj.weight, out.reshape(-1, out.shape[-1]).T)
            for name in ("gate", "up", "down"):
                put(getattr(mlp, f"{name}_proj").weight, stored[f"blocks/mlp/{name}"][i].T)


class Step:
    """Forward, loss, backward, clipping and fused AdamW, repeated on one batch."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.device = torch.device("cuda" if task["device"] == "gpu" else "cpu")
        self.facts = facts(self.device)
        torch.manual_seed(0)
        torch.set_float32_matmul_precision(task.get("precision", "highest"))
        module = {"lean": LeanLlama, "library": LibraryLlama}[task["code"]](task["model"])
        if task.get("weights"):
            with np.load(Path(task["weights"])) as stored:
                module.take(stored)
        self.module = module.to(self.device).train()
        self.half = task["dtype"] == "bfloat16"
        decayed = [p for p in module.parameters() if p.ndim > 1]
        others = [p for p in module.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
            lr=3e-4,
            betas=(0.9, 0.95),
            eps=1e-8,
            fused=True,
        )
        self.loss: Callable[..., torch.Tensor] = self._loss
        if task["compile"]:
            self.loss = torch.compile(self._loss)
        rng = np.random.default_rng(0)
        shape = (task["batch"], task["length"] + 1)
        tokens = torch.from_numpy(rng.integers(0, task["model"]["vocab_size"], shape))
        tokens = tokens.to(self.device)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()

    def _loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            logits = self.module(inputs)
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def run(self, count: int) -> list[float | None]:
        losses = []
        for _ in range(count):
            loss = self.loss(self.inputs, self.targets)
            loss.backward()
            nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.detach())
        return [float(loss) for loss in losses]

    def device_bytes(self) -> int | None:
        return peak_device_bytes(self.device)


class Mixer:
    """Forward and backward of one state-space mixer: gradients by parameters and input."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.device = torch.device("cuda" if task["device"] == "gpu" else "cpu")
        self.facts = facts(self.device)
        torch.manual_seed(0)
        self.mixer = mixer_of(task["code"], task["model"]).to(self.device).train()
        rng = np.random.default_rng(0)
        shape = (task["batch"], task["length"], task["model"]["width"])
        x, g = (torch.from_numpy(rng.standard_normal(shape)).float() for _ in range(2))
        self.x, self.g = x.to(self.device).requires_grad_(), g.to(self.device)

    def run(self, count: int) -> list[float | None]:
        for _ in range(count):
            (self.mixer(self.x) * self.g).sum().backward()
            self.mixer.zero_grad(set_to_none=True)
            self.x.grad = None
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return [None] * count

    def device_bytes(self) -> int | None:
        return peak_device_bytes(self.device)


def mixer_of(code: str, model: dict[str, Any]) -> nn.Module:
    """Return a mixer: the parallel scan of mambapy, or the Mamba or Mamba-2 of `transformers`."""
    width, state = model["width"], model["state"]
    if code == "mambapy":
        from mambapy.mamba import MambaBlock, MambaConfig

        return MambaBlock(MambaConfig(d_model=width, n_layers=1, d_state=state, pscan=True))
    if model["__class__"] == "MambaConfig":
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer

        config = MambaConfig(
            hidden_size=width, state_size=state, num_hidden_layers=1, use_mambapy=True
        )
        return MambaMixer(config, layer_idx=0)
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=width,
        state_size=state,
        num_hidden_layers=1,
        expand=2,
        head_dim=model["head_channels"],
        num_heads=2 * width // model["head_channels"],
        n_groups=1,
        chunk_size=model["scan_chunk"],
        use_bias=False,
    )
    return Mamba2Mixer(config, layer_idx=0)


def put(parameter: torch.Tensor, value: np.ndarray) -> None:
    """Copy an array into a parameter, for any memory order."""
    parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def flat(weight: np.ndarray) -> np.ndarray:
    """Reshape [D, heads, head_dim] to [D, heads · head_dim]."""
    return weight.reshape(weight.shape[0], -1)


def peak_device_bytes(device: torch.device) -> int | None:
    """Return the peak memory of a GPU in bytes; None on CPU."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else None


if __name__ == "__main__":
    serve({"model": Step, "mixer": Mixer}[json.loads(sys.argv[1])["kind"]])
