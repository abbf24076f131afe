"""The model types in NumPy float64, written from their papers; tensor names as in Hugging Face."""

import numpy as np
from scipy.special import erf


def rms_norm(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def rotate(x, theta, slower=1):
    """Apply rotary positions, divided by ``slower``, to halves; x is [L, H, K]."""
    length, _, size = x.shape
    angle = np.arange(length)[:, None] / slower / theta ** (np.arange(0, size, 2) / size)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    first, second = x[..., : size // 2], x[..., size // 2 :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def head_size(config):
    return config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])


def llama(tensors, config, tokens):
    """Return logits [L, V] of one sequence of a Llama or a related model, which differ in their
    norms.
    """
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    size, kind = head_size(config), config["model_type"]

    def norm(x, name):
        if kind == "olmo":
            x = x - x.mean(-1, keepdims=True)
            return rms_norm(x, 1.0, 1e-5)
        return rms_norm(x, w[name + ".weight"], config["rms_norm_eps"])

    def attention(h, p, i):
        q, k, v = (h @ w[f"{p}self_attn.{n}_proj.weight"].T for n in "qkv")
        if kind == "qwen2":
            q, k, v = (
                a + w[f"{p}self_attn.{n}_proj.bias"] for n, a in zip("qkv", (q, k, v), strict=True)
            )
        if kind in ("olmo2", "olmo3"):
            q, k = norm(q, p + "self_attn.q_norm"), norm(k, p + "self_attn.k_norm")
        q, k, v = (a.reshape(len(tokens), -1, size) for a in (q, k, v))
        if kind == "qwen3":
            q, k = norm(q, p + "self_attn.q_norm"), norm(k, p + "self_attn.k_norm")
        if config.get("no_rope_layers", ())[i : i + 1] != [0]:
            q, k = (rotate(a, config["rope_theta"]) for a in (q, k))
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        is_full = config.get("layer_types", ())[i : i + 1] == ["full_attention"]
        window = None if is_full else config.get("sliding_window")
        return attend(q, k, v, window) @ w[p + "self_attn.o_proj.weight"].T

    def mlp(h, p):
        gate, up = (h @ w[f"{p}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
        return (silu(gate) * up) @ w[p + "mlp.down_proj.weight"].T

    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        if kind in ("olmo2", "olmo3"):
            x = x + norm(attention(x, p, i), p + "post_attention_layernorm")
            x = x + norm(mlp(x, p), p + "post_feedforward_layernorm")
        else:
            x = x + attention(norm(x, p + "input_layernorm"), p, i)
            x = x + mlp(norm(x, p + "post_attention_layernorm"), p)
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, "model.norm") @ head.T


def gemma3(tensors, config, tokens):
    """Return logits [L, V] of one sequence of a Gemma 3 text model."""
    root = "language_model." if config["model_type"] == "gemma3" else ""
    config = config.get("text_config", config)
    w = {name.removeprefix(root): np.asarray(a, np.float64) for name, a in tensors.items()}
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    scale = np.sqrt(config["head_dim"] / config["query_pre_attn_scalar"])

    def norm(x, name):
        return rms_norm(x, 1 + w[name + ".weight"], config["rms_norm_eps"])

    def attention(h, p, full):
        q, k, v = (
            (h @ w[f"{p}{n}_proj.weight"].T).reshape(len(tokens), -1, config["head_dim"])
            for n in "qkv"
        )
        q, k = norm(q, p + "q_norm"), norm(k, p + "k_norm")
        theta = config["rope_theta"] if full else config["rope_local_base_freq"]
        slower = config["rope_scaling"]["factor"] if full else 1
        q, k = (rotate(a, theta, slower) for a in (q, k))
        k, v = (np.repeat(a, heads // kv_heads, axis=1) for a in (k, v))
        window = None if full else config["sliding_window"]
        return attend(q * scale, k, v, window) @ w[p + "o_proj.weight"].T

    def mlp(h, p):
        gate, up = (h @ w[f"{p}{n}_proj.weight"].T for n in ("gate", "up"))
        gelu = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        return (gelu * up) @ w[p + "down_proj.weight"].T

    x = w["model.embed_tokens.weight"][tokens] * np.sqrt(config["hidden_size"])
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        full = (i + 1) % config["sliding_window_pattern"] == 0
        h = attention(norm(x, p + "input_layernorm"), p + "self_attn.", full)
        x = x + norm(h, p + "post_attention_layernorm")
        h = mlp(norm(x, p + "pre_feedforward_layernorm"), p + "mlp.")
        x = x + norm(h, p + "post_feedforward_layernorm")
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, "model.norm") @ head.T


def mamba(tensors, config, tokens):
    """Return logits [L, V] of one sequence."""
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


def mamba2(tensors, config, tokens):
    """Return logits [L, V] of one sequence."""
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    heads, channels, groups, size = (
        config[n] for n in ("num_heads", "head_dim", "n_groups", "state_size")
    )
    inner, taps, eps = heads * channels, config["conv_kernel"], config["layer_norm_epsilon"]
    x = w["backbone.embeddings.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        p = f"backbone.layers.{i}.mixer."
        h = rms_norm(x, w[f"backbone.layers.{i}.norm.weight"], eps)
        gate, u, dt = np.split(h @ w[p + "in_proj.weight"].T, [inner, -heads], axis=-1)
        padded = np.concatenate([np.zeros((taps - 1, u.shape[1])), u])
        kernel = w[p + "conv1d.weight"][:, 0]
        u = silu(
            sum(padded[t : t + len(tokens)] * kernel[:, t] for t in range(taps))
            + w[p + "conv1d.bias"]
        )
        u, b, c = np.split(u, [inner, inner + groups * size], axis=-1)
        dt, a = softplus(dt + w[p + "dt_bias"]), -np.exp(w[p + "A_log"])
        y = np.zeros((len(tokens), heads, channels))
        for head in range(heads):
            state, group = np.zeros((channels, size)), head // (heads // groups)
            for t in range(len(tokens)):
                mine = u[t].reshape(heads, channels)[head]
                b_t, c_t = (m[t].reshape(groups, size)[group] for m in (b, c))
                state = np.exp(dt[t, head] * a[head]) * state + np.outer(dt[t, head] * mine, b_t)
                y[t, head] = state @ c_t + w[p + "D"][head] * mine
        gated = (y.reshape(len(tokens), inner) * silu(gate)).reshape(len(tokens), groups, -1)
        y = rms_norm(gated, 1.0, eps).reshape(len(tokens), inner) * w[p + "norm.weight"]
        x = x + y @ w[p + "out_proj.weight"].T
    head = w.get("lm_head.weight", w["backbone.embeddings.weight"])
    return rms_norm(x, w["backbone.norm_f.weight"], eps) @ head.T


def layer_norm(x, w, name, eps):
    x = x - x.mean(-1, keepdims=True)
    scaled = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    return scaled * w[name + ".weight"] + w[name + ".bias"]


def attend(q, k, v, window=None):
    """Return causal attention; q, k, v are [L, H, K], the result is [L, H * K].

    With a window a query attends to that many positions: its own and those before.
    """
    seen = np.tril(np.ones((len(q), len(q))))
    seen = seen if window is None else np.triu(seen, 1 - window)
    mask = np.where(seen, 0, -np.inf)
    scores = np.einsum("qhk,lhk->hql", q, k) / np.sqrt(q.shape[-1]) + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("hql,lhk->qhk", weights, v).reshape(len(q), -1)


def gpt2(tensors, config, tokens):
    """Return logits [L, V] of one sequence."""
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    length, heads, eps = len(tokens), config["n_head"], config["layer_norm_epsilon"]
    x = w["transformer.wte.weight"][tokens] + w["transformer.wpe.weight"][:length]
    for i in range(config["n_layer"]):
        p = f"transformer.h.{i}."
        h = layer_norm(x, w, p + "ln_1", eps) @ w[p + "attn.c_attn.weight"]
        h = h + w[p + "attn.c_attn.bias"]
        mixed = attend(*(a.reshape(length, heads, -1) for a in np.split(h, 3, -1)))
        x = x + mixed @ w[p + "attn.c_proj.weight"] + w[p + "attn.c_proj.bias"]
        h = layer_norm(x, w, p + "ln_2", eps) @ w[p + "mlp.c_fc.weight"] + w[p + "mlp.c_fc.bias"]
        h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + h @ w[p + "mlp.c_proj.weight"] + w[p + "mlp.c_proj.bias"]
    head = w.get("lm_head.weight", w["transformer.wte.weight"])
    return layer_norm(x, w, "transformer.ln_f", eps) @ head.T


def gpt_neox(tensors, config, tokens):
    """Return logits [L, V] of one sequence."""
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    length, heads, eps = len(tokens), config["num_attention_heads"], config["layer_norm_eps"]
    size = config["hidden_size"] // heads
    turning = int(size * config["rotary_pct"])
    x = w["gpt_neox.embed_in.weight"][tokens]

    def linear(h, name):
        return h @ w[name + ".weight"].T + w[name + ".bias"]

    for i in range(config["num_hidden_layers"]):
        p = f"gpt_neox.layers.{i}."
        h = linear(layer_norm(x, w, p + "input_layernorm", eps), p + "attention.query_key_value")
        q, k, v = np.moveaxis(h.reshape(length, heads, 3, size), 2, 0)
        q, k = (
            np.concatenate(
                [rotate(a[..., :turning], config["rotary_emb_base"]), a[..., turning:]], -1
            )
            for a in (q, k)
        )
        attended = linear(attend(q, k, v), p + "attention.dense")
        before = x if config["use_parallel_residual"] else x + attended
        h = linear(
            layer_norm(before, w, p + "post_attention_layernorm", eps), p + "mlp.dense_h_to_4h"
        )
        h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
        x = x + attended + linear(h, p + "mlp.dense_4h_to_h")
    head = w.get("embed_out.weight", w["gpt_neox.embed_in.weight"])
    return layer_norm(x, w, "gpt_neox.final_layer_norm", eps) @ head.T


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
QWEN3 = LLAMA | {"model_type": "qwen3", "head_dim": LLAMA["hidden_size"] // 4}
UNDIVIDED = {"num_attention_heads": 6, "head_dim": 8}  # 6 heads do not divide the width
OLMO2 = LLAMA | {"model_type": "olmo2"}
MISTRAL = LLAMA | {"model_type": "mistral", "sliding_window": 5}
QWEN2 = LLAMA | {"model_type": "qwen2"}
SMOLLM3 = LLAMA | {
    "model_type": "smollm3",
    "num_hidden_layers": 5,
    "no_rope_layer_interval": 2,
    "no_rope_layers": [1, 0, 1, 0, 1],
}
OLMO3 = LLAMA | {
    "model_type": "olmo3",
    "num_hidden_layers": 5,
    "sliding_window": 5,
    "layer_types": [f"{kind}_attention" for kind in ("sliding", "full") * 2 + ("sliding",)],
    "rope_parameters": {
        f"{kind}_attention": {"rope_type": "default", "rope_theta": LLAMA["rope_theta"]}
        for kind in ("full", "sliding")
    },
}
GEMMA3_TEXT = LLAMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 5,
    "head_dim": 6,
    "sliding_window": 5,
    "sliding_window_pattern": 2,
    "rope_local_base_freq": 100.0,
    "rope_scaling": {"rope_type": "linear", "factor": 4.0},
    "query_pre_attn_scalar": 9,
}
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": GEMMA3_TEXT | {"tie_word_embeddings": True},
    "tie_word_embeddings": True,
}
OLMO = {k: v for k, v in LLAMA.items() if k != "rms_norm_eps"} | {"model_type": "olmo"}
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


MAMBA2 = {
    "model_type": "mamba2",
    "vocab_size": 30,
    "hidden_size": 12,
    "expand": 2,
    "num_heads": 4,
    "head_dim": 6,
    "n_groups": 2,
    "num_hidden_layers": 2,
    "state_size": 5,
    "conv_kernel": 3,
    "layer_norm_epsilon": 1e-4,
    "tie_word_embeddings": False,
}


def llama_shapes(c):
    """Return names and shapes of the tensors of a Llama or a related model, as in transformers."""
    d, f, v, kind = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["model_type"]
    size = head_size(c)
    e, kv = size * c["num_attention_heads"], size * c["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (v, d), "model.norm.weight": (d,)}
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        shapes |= {
            p + "input_layernorm.weight": (d,),
            p + "post_attention_layernorm.weight": (d,),
            p + "pre_feedforward_layernorm.weight": (d,),
            p + "post_feedforward_layernorm.weight": (d,),
            p + "self_attn.q_norm.weight": (e if kind in ("olmo2", "olmo3") else size,),
            p + "self_attn.k_norm.weight": (kv if kind in ("olmo2", "olmo3") else size,),
            p + "self_attn.q_proj.weight": (e, d),
            p + "self_attn.k_proj.weight": (kv, d),
            p + "self_attn.v_proj.weight": (kv, d),
            p + "self_attn.o_proj.weight": (d, e),
            p + "mlp.gate_proj.weight": (f, d),
            p + "mlp.up_proj.weight": (f, d),
            p + "mlp.down_proj.weight": (d, f),
        }
        if kind == "qwen2":
            for name, rows in (("q", e), ("k", kv), ("v", kv)):
                shapes[f"{p}self_attn.{name}_proj.bias"] = (rows,)
    absent = {
        "qwen3": ("feedforward_layernorm",),
        "olmo": ("norm",),
        "olmo2": ("input_layernorm", "pre_feed"),
        "olmo3": ("input_layernorm", "pre_feed"),
        "gemma3_text": ("nothing",),
    }.get(kind, ("q_norm", "k_norm", "feedforward_layernorm"))
    shapes = {k: shape for k, shape in shapes.items() if not any(part in k for part in absent)}
    return shapes | ({} if c["tie_word_embeddings"] else {"lm_head.weight": (v, d)})


def gemma3_shapes(c):
    """Return names and shapes of the tensors of a Gemma 3 that also reads images, without those of
    its images, as published.
    """
    return {f"language_model.{k}": shape for k, shape in llama_shapes(c["text_config"]).items()}


def mamba_shapes(c):
    """Return names and shapes of the tensors of a Mamba, as in transformers."""
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


def mamba2_shapes(c):
    """Return names and shapes of the tensors of a Mamba-2, as in transformers."""
    d, h, v = c["hidden_size"], c["num_heads"], c["vocab_size"]
    e = h * c["head_dim"]
    convolved = e + 2 * c["n_groups"] * c["state_size"]
    shapes = {"backbone.embeddings.weight": (v, d), "backbone.norm_f.weight": (d,)}
    for i in range(c["num_hidden_layers"]):
        p = f"backbone.layers.{i}.mixer."
        shapes |= {
            f"backbone.layers.{i}.norm.weight": (d,),
            p + "in_proj.weight": (e + convolved + h, d),
            p + "conv1d.weight": (convolved, 1, c["conv_kernel"]),
            p + "conv1d.bias": (convolved,),
            p + "dt_bias": (h,),
            p + "A_log": (h,),
            p + "D": (h,),
            p + "norm.weight": (e,),
            p + "out_proj.weight": (d, e),
        }
    return shapes | ({} if c["tie_word_embeddings"] else {"lm_head.weight": (v, d)})


GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 30,
    "n_embd": 16,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 24,
    "n_positions": 24,
    "layer_norm_epsilon": 1e-4,
    "tie_word_embeddings": False,
}
GPT_NEOX = {
    "model_type": "gpt_neox",
    "vocab_size": 30,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
    "layer_norm_eps": 1e-4,
    "rotary_emb_base": 500.0,
    "rotary_pct": 0.5,
    "use_parallel_residual": True,
    "tie_word_embeddings": False,
}


def normed(name, width):
    """Return names and shapes of a LayerNorm."""
    return {name + ".weight": (width,), name + ".bias": (width,)}


def gpt2_shapes(c):
    """Return names and shapes of the tensors of a GPT-2, as in transformers."""
    d, f, v = c["n_embd"], c["n_inner"], c["vocab_size"]
    shapes = {"transformer.wte.weight": (v, d), "transformer.wpe.weight": (c["n_positions"], d)}
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        shapes |= normed(p + "ln_1", d) | normed(p + "ln_2", d)
        for name, rows, columns in (
            ("attn.c_attn", d, 3 * d),
            ("attn.c_proj", d, d),
            ("mlp.c_fc", d, f),
            ("mlp.c_proj", f, d),
        ):
            shapes |= {f"{p}{name}.weight": (rows, columns), f"{p}{name}.bias": (columns,)}
    shapes |= normed("transformer.ln_f", d)
    return shapes | ({} if c["tie_word_embeddings"] else {"lm_head.weight": (v, d)})


def gpt_neox_shapes(c):
    """Return names and shapes of the tensors of a GPT-NeoX, as in transformers."""
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    shapes = {"gpt_neox.embed_in.weight": (v, d)}
    for i in range(c["num_hidden_layers"]):
        p = f"gpt_neox.layers.{i}."
        shapes |= normed(p + "input_layernorm", d) | normed(p + "post_attention_layernorm", d)
        for name, rows, columns in (
            ("attention.query_key_value", 3 * d, d),
            ("attention.dense", d, d),
            ("mlp.dense_h_to_4h", f, d),
            ("mlp.dense_4h_to_h", d, f),
        ):
            shapes |= {f"{p}{name}.weight": (rows, columns), f"{p}{name}.bias": (rows,)}
    shapes |= normed("gpt_neox.final_layer_norm", d)
    return shapes | ({} if c["tie_word_embeddings"] else {"embed_out.weight": (v, d)})


MODELS = {
    "llama": (LLAMA, llama_shapes, llama),
    "llama-wide-heads": (LLAMA | {"head_dim": 6}, llama_shapes, llama),
    "mistral": (MISTRAL, llama_shapes, llama),
    "qwen2": (QWEN2, llama_shapes, llama),
    "smollm3": (SMOLLM3, llama_shapes, llama),
    "olmo3": (OLMO3, llama_shapes, llama),
    "gemma3_text": (GEMMA3_TEXT, llama_shapes, gemma3),
    "qwen3": (QWEN3, llama_shapes, llama),
    "qwen3-wide-heads": (QWEN3 | UNDIVIDED, llama_shapes, llama),
    "olmo": (OLMO, llama_shapes, llama),
    "olmo2": (OLMO2, llama_shapes, llama),
    "olmo2-wide-heads": (OLMO2 | UNDIVIDED, llama_shapes, llama),
    "gpt2": (GPT2, gpt2_shapes, gpt2),
    "gpt_neox": (GPT_NEOX, gpt_neox_shapes, gpt_neox),
    "mamba": (MAMBA, mamba_shapes, mamba),
    "mamba2": (MAMBA2, mamba2_shapes, mamba2),
}
