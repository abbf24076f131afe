"""Exported folders in transformers itself, where it is installed (extra ``[peers]``)."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from lossline import vocabularies
from lossline.conversion import read_model, write_model

from .numpy_models import MODELS
from .test_huggingface import logits_of, make_folder
from .test_tokenizer_files import TEXT, make_run, spec_of, write

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.mark.parametrize("name", ["mistral", "qwen2", "smollm3", "olmo3", "gemma3_text"])
def test_logits_equal_those_of_transformers_beyond_the_window(tmp_path, name):
    make_folder(tmp_path / "hf", name, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    config, params = read_model(tmp_path / "hf")
    write_model(tmp_path / "back", config, params)
    tokens = np.random.default_rng(1).integers(0, MODELS[name][0]["vocab_size"], 19)
    found = logits_of(config, params, jnp.asarray(tokens))
    for folder in ("hf", "back"):
        model = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / folder, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            expected = model(torch.from_numpy(tokens)[None]).logits[0].numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "tiktoken", "huggingface"])
def test_tokenizer_and_generate_work_unaided(tmp_path, kind):
    spec = spec_of(kind, tmp_path)
    run, vocabulary = make_run(tmp_path, spec, max_position_embeddings=64)
    write(run.path, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT)["input_ids"] == vocabularies.load(spec).encode(TEXT).tolist()
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        vocabulary.eos_id,
        vocabulary.pad_id,
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    rows = tokenizer(
        ["the cat", "a"], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    made = model.generate(**rows, max_new_tokens=3, do_sample=False)
    assert made.shape[1] > rows["input_ids"].shape[1]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert model.generation_config.eos_token_id == config["eos_token_id"] == vocabulary.eos_id
