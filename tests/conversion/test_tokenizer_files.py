"""Tokenizers in Hugging Face folders: the ids of the run's vocabulary, and the same one back."""

import base64
import dataclasses
import json

import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from lossline import vocabularies
from lossline.conversion.runs import ConvertOptions, convert
from lossline.errors import UserError
from lossline.runs.run_directory import RunDirectory
from lossline.vocabularies import Bytes, HuggingFace, Normalization, SentencePiece, Tiktoken

from .numpy_models import LLAMA
from .test_huggingface import tensors_of

TEXT = "The 2 cats  sat on the mat and that is that,"
TEXT += "\n\n  it's naïve:\t日本 </s> <|endoftext|> 👩‍👧 end.\n"
WORDS = ["the cat sat on the mat and that is that", "a naïve café, it's 12 o'clock", "日本 の 猫"]


def spec_of(kind, folder):
    if kind == "bytes":
        return Bytes()
    if kind == "tiktoken":
        pieces = [bytes([b]) for b in range(256)] + [b"th", b"the", b" the", b" c", b" ca", b"at"]
        lines = [f"{base64.b64encode(piece).decode()} {i}" for i, piece in enumerate(pieces)]
        (folder / "ranks.tiktoken").write_text("\n".join(lines))
        return Tiktoken(path=str(folder / "ranks.tiktoken"), pattern="cl100k", name="ranks")
    if kind == "huggingface":
        return HuggingFace(path=str(byte_level(folder)), normalization=Normalization.DROP)
    sentencepiece = pytest.importorskip("sentencepiece")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 9), model_prefix=str(folder / "small"), model_type=kind,
        vocab_size=330 if kind == "bpe" else 310, byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", add_dummy_prefix=False, hard_vocab_limit=False,
        remove_extra_whitespaces=False, user_defined_symbols=["on the", "is▁that", "it's"],
    )  # fmt: skip
    return SentencePiece(path=str(folder / "small.model"))


def byte_level(folder):
    """Write a tokenizer.json that lower-cases and adds a token before each text."""
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.normalizer = normalizers.Lowercase()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|begin|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(WORDS * 9, trainer)
    begin = ("<|begin|>", tokenizer.token_to_id("<|begin|>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[begin]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def make_run(tmp_path, spec, **entries):
    """Return an imported run of this vocabulary, and its vocabulary."""
    vocabulary = vocabularies.load(spec)
    tree = LLAMA | {"vocab_size": vocabulary.vocab_size} | entries
    (tmp_path / "hf").mkdir(exist_ok=True)
    save_file(tensors_of("llama", tree), tmp_path / "hf" / "model.safetensors")
    (tmp_path / "hf" / "config.json").write_text(json.dumps(tree))
    read(tmp_path / "hf", tmp_path / "run", spec)
    return RunDirectory.open(tmp_path / "run"), vocabulary


def read(folder, target, vocabulary=None):
    facts = dict(pretraining_data="stories", tokens=1000)
    source, target = str(folder), str(target)
    convert(ConvertOptions(source=source, target=target, vocabulary=vocabulary, **facts))


def write(run, target, **changes):
    convert(ConvertOptions(source=str(run), target=str(target), **changes))
    return json.loads((target / "config.json").read_text())


@pytest.mark.parametrize("kind", ["bytes", "bpe", "unigram", "tiktoken", "huggingface"])
def test_a_folder_has_the_ids_of_the_vocabulary_and_gives_it_back(tmp_path, kind):
    run, vocabulary = make_run(tmp_path, spec_of(kind, tmp_path))
    config = write(run.path, tmp_path / "out")
    eos, pad = vocabulary.eos_id, vocabulary.pad_id
    ids = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": pad}
    assert ids.items() <= config.items()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == ids
    tokenizer = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == run.facts["context_length"]
    names = {"bos_token": eos, "eos_token": eos, "pad_token": pad}
    assert {name: tokenizer.token_to_id(settings[name]) for name in names} == names
    tokenizer.encode_special_tokens = settings["split_special_tokens"]
    assert tokenizer.encode(TEXT).ids == vocabulary.encode(TEXT).tolist()
    assert tokenizer.decode(tokenizer.encode(TEXT).ids) == TEXT
    read(tmp_path / "out", tmp_path / "again")
    again = RunDirectory.open(tmp_path / "again").facts
    for name in ("tokenizer", "vocabulary_hash"):
        assert again[name] == run.facts[name]
    (tmp_path / "out" / "tokenizer_config.json").unlink()  # the second run does not need it
    write(tmp_path / "again", tmp_path / "third")
    for file in ("tokenizer.json", "lossline_vocabulary.json", "config.json"):
        assert (tmp_path / "third" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_a_published_tokenizer_is_written_as_it_is(tmp_path):
    (tmp_path / "hf").mkdir()
    file = byte_level(tmp_path / "hf")
    tree = json.loads(file.read_text()) | {"normalizer": None}
    file.write_text(json.dumps(tree))
    (tmp_path / "hf" / "tokenizer_config.json").write_text('{"own": 1}')
    run, _ = make_run(tmp_path, HuggingFace(path=str(file)), bos_token_id=1, eos_token_id=[0, 5])
    assert run.facts["tokenizer"] == "hf"
    for source, name in ((run.path, "out"), (tmp_path / "run2", "out2")):
        config = write(source, tmp_path / name)
        assert (config["bos_token_id"], config["eos_token_id"]) == (1, [0, 5])
        for kept in ("tokenizer.json", "tokenizer_config.json"):
            there = (tmp_path / name / kept).read_bytes()
            assert there == (tmp_path / "hf" / kept).read_bytes()
        if name == "out":
            read(tmp_path / "out", tmp_path / "run2")
    assert RunDirectory.open(tmp_path / "run2").facts["tokenizer"] == "hf"


def test_the_vocabulary_of_a_run_is_given_found_or_named(tmp_path, capsys):
    run, _ = make_run(tmp_path, spec_of("tiktoken", tmp_path))
    with pytest.raises(UserError, match=r"convert.vocabulary = 'bytes' \(\w+\) is not .* ranks \("):
        write(run.path, tmp_path / "out", vocabulary="bytes")
    assert not (tmp_path / "out").exists()
    (run.path / "vocabulary" / "lossline_vocabulary.json").unlink()
    config = write(run.path, tmp_path / "bare")
    assert config["eos_token_id"] is None and not (tmp_path / "bare" / "tokenizer.json").exists()
    assert "bare has no tokenizer and no ids of special tokens: the run's vocabulary is ranks" in (
        capsys.readouterr().out
    )
    given = dataclasses.replace(spec_of("tiktoken", tmp_path), name="other")
    write(run.path, tmp_path / "given", vocabulary=given)
    record = json.loads((tmp_path / "given" / "lossline_vocabulary.json").read_text())
    assert record["name"] == "ranks"
    write(run.path, tmp_path / "none", vocabulary="none")
    assert not (tmp_path / "none" / "tokenizer.json").exists()


def test_files_that_are_not_those_recorded_are_refused(tmp_path):
    run, _ = make_run(tmp_path, spec_of("tiktoken", tmp_path))
    write(run.path, tmp_path / "out")
    file = tmp_path / "out" / "tokenizer.tiktoken"
    file.write_text(file.read_text() + f"\n{base64.b64encode(b' cat').decode()} 262")
    with pytest.raises(UserError, match=r"records vocabulary ranks .* give another one"):
        read(tmp_path / "out", tmp_path / "again")
    (tmp_path / "out" / "lossline_vocabulary.json").write_text('{"kind": "Odd"}')
    with pytest.raises(UserError, match=r"is no record of a vocabulary"):
        read(tmp_path / "out", tmp_path / "again")
    assert not (tmp_path / "again").exists()
