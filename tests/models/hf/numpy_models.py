"""Llama and Mamba written from the papers in NumPy float64, straight on tensors named as Hugging
Face names them.
"""

import numpy as np


def rms_norm(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def rotate(x, theta):
    """Rotary positions on halves; x [L, H, K]."""
    length, _, size = x.shape
    angle = np.arange(length)[:, None] / theta ** (np.arange(0, size, 2) / size)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    first, second = x[..., : size // 2], x[..., size // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def llama(tensors, config, tokens):
    """Logits [L, V] of one sequence."""
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    eps, size = config["rms_norm_eps"], config["hidden_size"] // heads
    x = w["model.embed_tokens.weight"][tokens]
    mask = np.where(np.tril(np.ones((len(tokens),) * 2)), 0, -np.inf)
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        h = rms_norm(x, w[p + "input_layernorm.weight"], eps)
        q, k, v = (
            (h @ w[f"{p}self_attn.{n}_proj.weight"].T).reshape(len(tokens), -1, size) for n in "qkv"
        )
        q, k = (rotate(a, config["rope_theta"]) for a in (q, k))
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        scores = np.einsum("qhk,lhk->hql", q, k) / np.sqrt(size) + mask
        p_ = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("hql,lhk->qhk", p_ / p_.sum(-1, keepdims=True), v)
        x = x + mixed.reshape(len(tokens), -1) @ w[p + "self_attn.o_proj.weight"].T
        h = rms_norm(x, w[p + "post_attention_layernorm.weight"], eps)
        gate, up = (h @ w[f"{p}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        x = x + (silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return rms_norm(x, w["model.norm.weight"], eps) @ head.T


def mamba(tensors, config, tokens):
    """Logits [L, V] of one sequence."""
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    inner, size = config["intermediate_size"], config["state_size"]
    rank, taps, eps = (config[n] for n in ("time_step_rank", "conv_kernel", "layer_norm_epsilon"))
    x = w["backbone.embeddings.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"backbone.layers.{i}.mixer."
        h = rms_norm(x, w[f"backbone.layers.{i}.norm.weight"], eps)
        u, gate = np.split(h @ w[p + "in_proj.weight"].T, 2, axis=-1)
        padded = np.concatenate([np.zeros((taps - 1, inner)), u])
        kernel = w[p + "conv1d.weight"][:, 0]
        u = silu(
            sum(padded[t : t + len(tokens)] * kernel[:, t] for t in range(taps))
            + w[p + "conv1d.bias"]
        )
        step, b, c = np.split(u @ w[p + "x_proj.weight"].T, [rank, rank + size], axis=-1)
        dt = softplus(step @ w[p + "dt_proj.weight"].T + w[p + "dt_proj.bias"])
        a, state, y = -np.exp(w[p + "A_log"]), np.zeros((inner, size)), []
        for t in range(len(tokens)):
            state = np.exp(dt[t][:, None] * a) * state + (dt[t] * u[t])[:, None] * b[t]
            y.append(state @ c[t] + w[p + "D"] * u[t])
        x = x + (np.array(y) * silu(gate)) @ w[p + "out_proj.weight"].T
    head = w.get("lm_head.weight", w["backbone.embeddings.weight"])
    return rms_norm(x, w["backbone.norm_f.weight"], eps) @ head.T


LLAMA = {
    "model_type": "llama",
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-4,
    "rope_theta": 500.0,
    "max_position_embeddings": 24,
    "tie_word_embeddings": False,
}
MAMBA = {
    "model_type": "mamba",
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "state_size": 5,
    "conv_kernel": 4,
    "time_step_rank": 2,
    "layer_norm_epsilon": 1e-4,
    "tie_word_embeddings": False,
}


def llama_shapes(c):
    """Names and shapes of a Llama's tensors, as transformers has them."""
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    kv = d * c["num_key_value_heads"] // c["num_attention_heads"]
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes |= {
            p + "input_layernorm.weight": (d,),
            p + "post_attention_layernorm.weight": (d,),
            p + "self_attn.q_proj.weight": (d, d),
            p + "self_attn.k_proj.weight": (kv, d),
            p + "self_attn.v_proj.weight": (kv, d),
            p + "self_attn.o_proj.weight": (d, d),
            p + "mlp.gate_proj.weight": (f, d),
            p + "mlp.up_proj.weight": (f, d),
            p + "mlp.down_proj.weight": (d, f),
        }
    return shapes | ({} if c["tie_word_embeddings"] else {"lm_head.weight": (v, d)})


def mamba_shapes(c):
    """Names and shapes of a Mamba's tensors, as transformers has them."""
    d, e, n, r = (
        c[k] for k in ("hidden_size", "intermediate_size", "state_size", "time_step_rank")
    )
    v = c["vocab_size"]
    shapes = {"backbone.embeddings.weight": (v, d), "backbone.norm_f.weight": (d,)}
    for i in range(c["num_hidden_layers"]):
        p = f"backbone.layers.{i}.mixer."
        shapes |= {
            f"backbone.layers.{i}.norm.weight": (d,),
            p + "in_proj.weight": (2 * e, d),
            p + "conv1d.weight": (e, 1, c["conv_kernel"]),
            p + "conv1d.bias": (e,),
            p + "x_proj.weight": (r + 2 * n, e),
            p + "dt_proj.weight": (e, r),
            p + "dt_proj.bias": (e,),
            p + "A_log": (e, n),
            p + "D": (e,),
            p + "out_proj.weight": (d, e),
        }
    return shapes | ({} if c["tie_word_embeddings"] else {"lm_head.weight": (v, d)})


MODELS = {"llama": (LLAMA, llama_shapes, llama), "mamba": (MAMBA, mamba_shapes, mamba)}
