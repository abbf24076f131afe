"""Folders of Gemma 3: the text part of models that read images, and short published files."""

import json

import jax
import numpy as np
from safetensors.numpy import save_file

from lossline.conversion import read_config, read_model, write_model

from .logits import logits_of
from .numpy_models import GEMMA3, gemma3, gemma3_shapes


def test_the_text_part_of_a_model_that_reads_images_is_read_and_written_alone(tmp_path):
    """Under the names of both versions of transformers."""
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_text(json.dumps(GEMMA3 | {"vision_config": {}}))
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(0, 0.4, shape).astype(np.float32)
        for name, shape in gemma3_shapes(GEMMA3).items()
    }
    image = np.ones(3, np.float32)
    images = {"vision_tower.a": image, "multi_modal_projector.b": image}
    save_file(tensors | images, published / "model.safetensors")
    config, params = read_model(published)
    tokens = rng.integers(0, 30, 19)
    expected = gemma3(tensors, GEMMA3, tokens)
    np.testing.assert_allclose(logits_of(config, params, tokens), expected, rtol=2e-4, atol=2e-4)
    newer = {
        name.replace("language_model.model.", "model.language_model."): array
        for name, array in tensors.items()
    }
    images = {f"model.{name}": array for name, array in images.items()}
    save_file(newer | images, published / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, read_model(published)[1], params)
    write_model(tmp_path / "text", config, params)
    assert json.loads((tmp_path / "text" / "config.json").read_text())["model_type"] == (
        "gemma3_text"
    )
    again = read_model(tmp_path / "text")
    assert again[0] == config
    jax.tree.map(np.testing.assert_array_equal, again[1], params)


def test_a_short_gemma_3_has_the_options_that_transformers_gives_it(tmp_path):
    """The published files of Gemma 3 4B say no more than this."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    tree = {"model_type": "gemma3", "text_config": text}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    config = read_config(tmp_path)
    assert config.num_params().total == 3_880_263_168  # of its text part
    assert (config.heads, config.kv_heads, config.head_dim, config.full_every) == (8, 4, 256, 6)
    assert (config.rope_theta, config.window_theta, config.norm_eps) == (1e6, 1e4, 1e-6)
