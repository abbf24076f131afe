"""Vocabularies: lossless round trips, bytes per token, stable hashes, error messages."""

import base64
import json
import random
from pathlib import Path

import numpy as np
import pytest

from lossline import vocabularies
from lossline.errors import UserError
from lossline.vocabularies import (
    HuggingFace,
    Normalization,
    SentencePiece,
    Tiktoken,
    Vocabulary,
    round_trip_probes,
)
from lossline.vocabularies.huggingface import byte_characters
from lossline.vocabularies.training import Algorithm, train

TEXT = [
    "The quick brown fox jumps over the lazy dog; it's 3.14 o'clock.\n",
    "def function(argument):\n    return [argument for _ in range(10)]\n\n\n",
    "Größe, élève, naïve — 語学 и слово.\n\tindented\twith tabs  and  spaces\n",
] * 30


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file per kind. The tiktoken ranks come from the BPE, so both must split equally."""
    folder = tmp_path_factory.mktemp("vocabularies")
    bpe = folder / "bpe.json"
    bpe.write_bytes(train(TEXT, Algorithm.BPE, 400, name="trained"))
    pieces = vocabularies.load(str(bpe)).pieces
    lines = [base64.b64encode(piece) + b" %d" % i for i, piece in enumerate(p for p in pieces if p)]
    (folder / "ranks.tiktoken").write_bytes(b"\n".join(lines))
    for algorithm in (Algorithm.UNIGRAM, Algorithm.SENTENCEPIECE_BPE):
        model = train(TEXT, algorithm, 320, name="trained")
        (folder / f"{algorithm.value}.model").write_bytes(model)
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def all_kinds(files: dict[str, Path]) -> dict[str, Vocabulary]:
    ranks = Tiktoken(path=str(files["ranks"]), pattern="gpt2")
    specs = {
        "bytes": "bytes",
        "bpe": str(files["bpe"]),
        "unigram": str(files["unigram"]),
        "sentencepiece_bpe": str(files["sentencepiece_bpe"]),
        "ranks": ranks,
    }
    return {name: vocabularies.load(spec) for name, spec in specs.items()}


KINDS = ("bytes", "bpe", "unigram", "sentencepiece_bpe", "ranks")


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_of_any_text_is_exact(all_kinds: dict[str, Vocabulary], kind: str) -> None:
    vocabulary = all_kinds[kind]
    draw = random.Random(7)
    ranges = [(0, 0x80), (0, 0x800), (0x2500, 0x2700), (0, 0xD800), (0xE000, 0x110000)]
    texts = [
        "".join(chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randrange(60)))
        for _ in range(300)
    ]
    for text, ids in zip(texts, vocabulary.encode_batch(texts), strict=True):
        assert vocabulary.decode(ids) == text
        assert vocabulary.token_bytes[ids].sum() == len(text.encode())
        assert ids.dtype == np.int32 and (not len(ids) or ids.max() < vocabulary.vocab_size)
        assert vocabulary.eos_id not in ids


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_are_encoded_as_text(
    all_kinds: dict[str, Vocabulary], kind: str
) -> None:
    vocabulary = all_kinds[kind]
    text = "a<|endoftext|>b<|padding|></s><unk><0x41>"
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert (vocabulary.token_bytes[ids] > 0).all()
    assert vocabulary.token_bytes[[vocabulary.eos_id, vocabulary.pad_id]].tolist() == [0, 0]


def test_byte_count_of_a_text_is_equal_in_every_vocabulary(
    all_kinds: dict[str, Vocabulary],
) -> None:
    text = "".join(TEXT) + "".join(round_trip_probes())
    counts = {kind: len(v.encode(text)) for kind, v in all_kinds.items()}
    sums = {kind: int(v.token_bytes[v.encode(text)].sum()) for kind, v in all_kinds.items()}
    assert set(sums.values()) == {len(text.encode())}
    assert len(set(counts.values())) >= 4  # although the numbers of tokens differ


def test_tiktoken_and_tokenizers_split_equally(all_kinds: dict[str, Vocabulary]) -> None:
    """The tiktoken ranks are the merges of the ``tokenizer.json``, in the same order."""
    bpe, ranks = all_kinds["bpe"], all_kinds["ranks"]
    for text in [*TEXT, *round_trip_probes()]:
        cut = [[v.pieces[i] for i in v.encode(text)] for v in (bpe, ranks)]
        assert cut[0] == cut[1]


def test_byte_characters_match_gpt2() -> None:
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(byte_characters()) == set(ByteLevel.alphabet())
    assert byte_characters()["Ġ"] == ord(" ") and byte_characters()["Ċ"] == ord("\n")


def test_hash_depends_only_on_content(files: dict[str, Path], tmp_path: Path) -> None:
    first = vocabularies.load(str(files["bpe"]))
    reformatted = tmp_path / "elsewhere.json"
    reformatted.write_text(
        json.dumps(json.loads(files["bpe"].read_text()), indent=2, sort_keys=True)
    )
    again = vocabularies.load(str(reformatted))
    assert again.hash == first.hash and again.name == "elsewhere"
    changed = json.loads(files["bpe"].read_text())
    changed["model"]["merges"] = changed["model"]["merges"][:-1]
    reformatted.write_text(json.dumps(changed))
    assert vocabularies.load(str(reformatted)).hash != first.hash
    assert len({v.hash for v in map(vocabularies.load, ("bytes", str(files["unigram"])))}) == 2


def test_hash_of_the_byte_vocabulary_never_changes() -> None:
    """Golden value: stores record this hash. Change it only together with HASH_VERSION."""
    expected = "dc64d3d869f8f6725a8676ee388a8b2f6898fcae3b1ebb861d471633f5ddd409"
    assert vocabularies.load("bytes").hash == expected


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "NFC"},
        {"type": "Lowercase"},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
)
def test_text_changing_normalizer_is_refused_or_dropped(
    files: dict[str, Path], tmp_path: Path, normalizer: dict
) -> None:
    path = tmp_path / "changing.json"
    description = json.loads(files["bpe"].read_text())
    description["normalizer"] = {"type": "Sequence", "normalizers": [normalizer]}
    path.write_text(json.dumps(description))
    with pytest.raises(
        UserError, match=r"changes text: it decodes .* Use @huggingface\(\) with .* = 'drop'"
    ):
        vocabularies.load(str(path))
    kept = vocabularies.load(HuggingFace(path=str(path), normalization=Normalization.DROP))
    assert kept.decode(kept.encode(" E\u0301 x ")) == " E\u0301 x "


def test_vocabulary_that_misses_a_byte_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "holes.json"
    description = json.loads(files["bpe"].read_text())
    del description["model"]["vocab"]["z"]
    description["model"]["merges"] = [
        m for m in description["model"]["merges"] if "z" not in "".join(m)
    ]
    path.write_text(json.dumps(description))
    with pytest.raises(UserError, match="covers all UTF-8 text"):
        vocabularies.load(str(path))


def test_sentencepiece_with_normalization_is_refused_or_dropped(tmp_path: Path) -> None:
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=400, byte_fallback=True,
        eos_id=1, unk_id=0, bos_id=-1, character_coverage=0.9995, minloglevel=2,
        user_defined_symbols=["\n", "\t"], hard_vocab_limit=False,
    )  # fmt: skip
    path = tmp_path / "default.model"
    path.write_bytes(model.getvalue())
    with pytest.raises(UserError, match="changes text"):
        vocabularies.load(str(path))
    kept = vocabularies.load(SentencePiece(path=str(path), normalization=Normalization.DROP))
    assert kept.decode(kept.encode("no  space\ufb01 added ")) == "no  space\ufb01 added "


def test_message_proposes_drop_only_if_it_helps(tmp_path: Path) -> None:
    """A SentencePiece model without byte pieces cannot cover every text, with or without drop."""
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, vocab_size=80, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    path = tmp_path / "letters.model"
    path.write_bytes(model.getvalue())
    for normalization in Normalization:
        spec = SentencePiece(path=str(path), normalization=normalization)
        with pytest.raises(UserError, match=r"changes text: .* Choose .* that covers") as caught:
            vocabularies.load(spec)
        assert "drop" not in str(caught.value)


def test_user_errors_are_one_line(files: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    half = tmp_path / "half.json"
    half.write_text('{"model": {"type": "Nonsense"}}')
    model = tmp_path / "no.model"
    model.write_bytes(b"no model at all")
    ranks = tmp_path / "no.tiktoken"
    ranks.write_text("not base64")
    few = tmp_path / "few.tiktoken"
    few.write_bytes(base64.b64encode(b"a") + b" 0")
    for spec, message in (
        ("unknown", "Give 'bytes', a .model"),
        (str(tmp_path / "nowhere.json"), "no file"),
        (str(broken), "is not JSON"),
        (str(empty), "has no 'model'"),
        (str(half), "cannot be read"),
        (str(model), "is not a SentencePiece model"),
        (Tiktoken(path=str(ranks), pattern="gpt2"), "is not a file of tiktoken ranks"),
        (Tiktoken(path=str(few), pattern="gpt2"), "lacks a rank for byte 0"),
        (Tiktoken(path=str(files["ranks"]), pattern="gpt9"), "no pattern 'gpt9'"),
        (HuggingFace(path=str(files["bpe"]), eos_token="<nope>"), "has no eos token <nope>"),
        (HuggingFace(path=str(files["bpe"]), eos_token="e"), "the eos token b'e' is ordinary text"),
        (SentencePiece(path=str(files["unigram"]), eos_token="<nope>"), "has no eos piece"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            vocabularies.load(spec)
        assert "\n" not in str(caught.value)


def test_training_and_evaluation_do_not_import_tensorflow() -> None:
    import subprocess
    import sys

    modules = (
        "vocabularies.vocabulary, lossline.stores.token_store, lossline.stores.task_store, "
        "lossline.batches.plans, lossline.stores.store_writer, lossline.stores.prepare_all, "
        "lossline.corpora.gather_all"
    )
    code = f"import sys; import lossline.{modules}; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
