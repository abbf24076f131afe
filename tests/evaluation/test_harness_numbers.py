"""The adapter's numbers are those of ``lm_eval --model hf`` on the exported folder.

Needs the LM evaluation harness, torch and transformers beside lossline; skipped elsewhere.
"""

import dataclasses
import json

import numpy as np
import pytest

from lossline.conversion.runs import ConvertOptions, export_run
from lossline.evaluation import harness
from lossline.vocabularies import HuggingFace, load

from .small_runs import LLAMA, MAMBA, make_run

lm_eval = pytest.importorskip("lm_eval", reason="needs the [harness] extra")
pytest.importorskip("torch", reason="needs torch for lm_eval --model hf")
pytest.importorskip("transformers", reason="needs transformers for lm_eval --model hf")
pytest.importorskip("accelerate", reason="needs accelerate for lm_eval --model hf")

TEXTS = [
    "The sky is blue and the sea is green, and two and two are four.",
    "Ask not what the sea can do; ask the sky whether it is  wet.",
    "Zwei und zwei sind vier; der Himmel ist blau und das Meer ist grün. " * 4,
]
QUESTIONS = [
    {"question": "The sky is", "choices": ["blue", "a cheese", "wet, wet"], "gold": 0},
    {"question": "Two and two are ", "choices": ["four", "a crowd"], "gold": 0},
    {"question": "Ask the sea. " * 8, "choices": ["not", "away and away"], "gold": 1},
]
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    },
    "few_shots": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "gold",
        "num_fewshot": 1,
        "fewshot_config": {"sampler": "first_n"},
        "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["e"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Return a byte-level BPE of a few hundred ids, and its file."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return load(HuggingFace(path=str(path))), path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Write the tasks and their local data; return the folder."""
    folder = tmp_path_factory.mktemp("tasks")
    for name, rows in (("texts", [{"text": text} for text in TEXTS]), ("questions", QUESTIONS)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for name, task in TASKS.items():
        data = folder / ("texts.jsonl" if name == "rolling" else "questions.jsonl")
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            **({"fewshot_split": "test"} if name == "few_shots" else {}),
            **task,
        }
        (folder / f"{name}.yaml").write_text(json.dumps(whole), encoding="utf-8")
    return folder


def responses(model, arguments, tasks):
    """Return task -> the model's responses to the requests of each document, and the config."""
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=1,
        device="cpu",
        bootstrap_iters=0,
    )
    found = {
        name: [
            [item[0] if isinstance(item, list) else item for item in sample["resps"]]
            for sample in sorted(samples, key=lambda sample: sample["doc_id"])
        ]
        for name, samples in results["samples"].items()
    }
    return found, results["config"]


@pytest.mark.parametrize("config", [LLAMA, MAMBA], ids=lambda c: c.family)
def test_numbers_equal_those_of_the_exported_folder(
    tmp_path, monkeypatch, vocabulary, tasks, config
):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    words, file = vocabulary
    config = dataclasses.replace(config, vocab_size=words.vocab_size, activation_dtype="float32")
    run = make_run(tmp_path / "run", config, steps=(2, 4), vocabulary=words)
    (run.path / "tokenizer.json").write_bytes(file.read_bytes())
    export_run(
        ConvertOptions(source=str(run.path), target=str(tmp_path / "hf"), vocabulary=str(file))
    )
    about = tmp_path / "hf" / "tokenizer_config.json"
    if not about.exists():
        about.write_text(
            json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"})
        )
    theirs, _ = responses(
        "hf",
        {"pretrained": str(tmp_path / "hf"), "dtype": "float32", "max_length": 32},
        tasks,
    )
    harness.register()
    ours, recorded = responses("lossline", {"run": str(run.path)}, tasks)
    assert (recorded["run"], recorded["checkpoint"]) == ("run", 4)
    assert ours.keys() == theirs.keys() == set(TASKS)
    for name in ("choices", "few_shots"):
        for mine, other in zip(ours[name], theirs[name], strict=True):
            close(mine, other, tokens=[len(words.encode(" blue"))] * len(mine))
            assert [greedy for _, greedy in mine] == [greedy for _, greedy in other]
    tokens = [len(words.encode(text)) for text in TEXTS]
    close(ours["rolling"], theirs["rolling"], tokens=tokens)
    assert ours["written"] == theirs["written"]


def close(mine, other, *, tokens):
    """Compare log-probabilities, to 1e-4 a token."""
    a, b = (np.array([np.ravel(item)[0] for item in side], np.float64) for side in (mine, other))
    assert (np.abs(a - b) <= 1e-4 * np.array(tokens)).all(), (a, b)
