"""The vocabulary of a run is found by its hash, where preparing text leaves it."""

import pytest

from lossline.errors import UserError
from lossline.files import write_json
from lossline.runs.run_directory import RunDirectory
from lossline.runs.vocabulary import found_specification, run_vocabulary
from lossline.vocabularies import ByteVocabulary, HuggingFace, Normalization, load


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Return a byte-level BPE that adds a leading space unless normalization is dropped."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the sky the sea"], trainer)
    path = tmp_path_factory.mktemp("made") / "tokenizer.json"
    made.save(str(path))
    return path


def run_of(folder, vocabulary, config=""):
    folder.mkdir(parents=True)
    facts = {"vocabulary_hash": vocabulary.hash, "tokenizer": vocabulary.name}
    write_json(folder / "facts.json", facts)
    write_json(folder / "config.json", {"__class__": "TrainOptions", "fingerprints": {}})
    (folder / "config.gin").write_text(config, encoding="utf-8")
    return RunDirectory(folder)


def test_it_is_found_beside_the_stores_in_the_run_or_where_the_user_says(
    tmp_path, tokenizer, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the checkout may have vocabularies
    spec = HuggingFace(path=str(tokenizer), normalization=Normalization.DROP)
    vocabulary = load(spec)
    root = tmp_path / "elsewhere"
    place = root / "vocabularies" / "bpe"
    place.mkdir(parents=True)
    (place / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    run = run_of(tmp_path / "a", vocabulary, f"train.store = '{root}/stores/bpe/wiki/train'\n")
    assert run_vocabulary(run).hash == vocabulary.hash
    assert load(found_specification(run)).hash == vocabulary.hash
    lost = run_of(tmp_path / "b", vocabulary)
    assert run_vocabulary(lost, str(tokenizer)).hash == vocabulary.hash
    assert run_vocabulary(lost, spec).hash == vocabulary.hash
    with pytest.raises(UserError, match=r"is not among the 0 vocabularies in .*--vocabulary=FILE"):
        run_vocabulary(lost)
    assert found_specification(lost) is None
    (place / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"1 vocab.* \(damaged: .*bpe/tokenizer.json\)\. Name it"):
        run_vocabulary(run)
    with pytest.raises(UserError, match="not with bytes"):
        run_vocabulary(lost, "bytes")
    (lost.path / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    assert run_vocabulary(lost).hash == vocabulary.hash
    plain = run_of(tmp_path / "c", ByteVocabulary())
    assert run_vocabulary(plain).name == "bytes"
