"""Steps of a tokenizer.json that change text are refused, or removed with ``drop``."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lossline import vocabularies
from lossline.errors import UserError
from lossline.stores.tokenization import tokenize
from lossline.vocabularies import (
    HuggingFace,
    Normalization,
    Vocabulary,
    round_trip_probes,
)
from lossline.vocabularies.training import train_bpe

METASPACE = "\u2581"
SPACE_AS_METASPACE = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
TEXT = "the bat the bath the heat the that"
DROP_PROPOSED = r"changes text: .* Use @huggingface\(\) with huggingface\.normalization = 'drop'\."


def byte_fallback(**parts: Any) -> dict[str, Any]:
    """A small BPE with metaspaces and byte fallback, like Llama 2."""
    specials = ["<unk>", "<s>", "</s>"]
    merges = [("t", "h"), ("th", "e"), ("a", "t"), (METASPACE, "the"), ("b", "at")]
    letters = [METASPACE, *"thebaq"]
    tokens = [*specials, *(f"<0x{b:02X}>" for b in range(256)), *letters, *map("".join, merges)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": i, "content": t, "special": True, **flags} for i, t in enumerate(specials)]
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
        "byte_fallback": True, "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": [" ".join(pair) for pair in merges],
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": SPACE_AS_METASPACE, "pre_tokenizer": None, "post_processor": None,
        "decoder": None, "model": model, **parts,
    }  # fmt: skip


def byte_level(**parts: Any) -> dict[str, Any]:
    return {**json.loads(train_bpe([TEXT], 262)), **parts}


def metaspace(**options: Any) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": METASPACE, **options}


def in_order(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": [*steps, SPACE_AS_METASPACE]}


def replacing(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return in_order({"type": "Replace", "pattern": pattern, "content": content})


def spaced_token(**flags: bool) -> dict[str, Any]:
    tree = byte_fallback()
    token = {**tree["added_tokens"][0], "id": len(tree["model"]["vocab"]), "content": "[X]"}
    tree["added_tokens"].append({**token, "special": False, **flags})
    return tree


def unigram() -> dict[str, Any]:
    """A Unigram with all byte pieces; like other pieces they match by name."""
    tree = byte_fallback(normalizer=None, pre_tokenizer=metaspace(prepend_scheme="always"))
    pieces = [[name, -20.0 if "<" in name else -3.0] for name in tree["model"]["vocab"]]
    tree["model"] = {"type": "Unigram", "unk_id": 0, "byte_fallback": True, "vocab": pieces}
    return tree


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Vocabulary]:
    def load(tree: dict[str, Any], normalization: str = "keep") -> Vocabulary:
        path = tmp_path / "made.json"
        path.write_text(json.dumps(tree))
        spec = HuggingFace(path=str(path), normalization=Normalization(normalization))
        return vocabularies.load(spec)

    return load


CHANGING = {
    "metaspace first": byte_fallback(
        normalizer=None, pre_tokenizer=metaspace(prepend_scheme="first", split=False)
    ),
    "metaspace always": byte_fallback(
        normalizer=None, pre_tokenizer=metaspace(prepend_scheme="always", split=True)
    ),
    "metaspace in the old format": byte_fallback(
        normalizer=None, pre_tokenizer=metaspace(add_prefix_space=True)
    ),
    "metaspace in a sequence": byte_fallback(
        normalizer=None,
        pre_tokenizer={
            "type": "Sequence",
            "pretokenizers": [
                metaspace(prepend_scheme="first"),
                {"type": "Digits", "individual_digits": True},
            ],
        },
    ),
    "prefix space": byte_level(
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
    ),
    "removed spaces": byte_fallback(
        pre_tokenizer={
            "type": "Split", "pattern": {"String": METASPACE}, "behavior": "Removed",
            "invert": False,
        }
    ),
    "prepend": byte_fallback(normalizer=in_order({"type": "Prepend", "prepend": METASPACE})),
    "lower case": byte_fallback(normalizer=in_order({"type": "Lowercase"})),
    "NFC": byte_fallback(normalizer=in_order({"type": "NFC"})),
    "NFKC": byte_fallback(normalizer=in_order({"type": "NFKC"})),
    "strip": byte_fallback(
        normalizer=in_order({"type": "Strip", "strip_left": True, "strip_right": True})
    ),
    "sequence in a sequence": byte_fallback(normalizer=in_order(in_order({"type": "NFD"}))),
    "quotes": byte_fallback(normalizer=replacing({"String": "``"}, '"')),
    "another letter of as many bytes": byte_fallback(normalizer=replacing({"String": "q"}, "t")),
    "runs of spaces": byte_fallback(normalizer=replacing({"Regex": " {2,}"}, METASPACE)),
    "unigram": unigram(),
    "token that swallows spaces": spaced_token(lstrip=True, rstrip=True),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGING)
def test_text_change_is_refused_and_drop_removes_it(
    load: Callable[..., Vocabulary], case: str
) -> None:
    with pytest.raises(UserError, match=DROP_PROPOSED):
        load(CHANGING[case])
    kept = load(CHANGING[case], "drop")
    for text in ["  the [X]  bat q `` ''", *round_trip_probes()]:
        assert kept.decode(kept.encode(text)) == text


def test_drop_keeps_the_learned_merges(load: Callable[..., Vocabulary]) -> None:
    """A space stays part of the word that follows it."""
    expected = [" the", " ", "bat"]
    old = "metaspace in the old format"
    for case in ("metaspace first", old, "prepend", "runs of spaces", "unigram"):
        vocabulary = load(CHANGING[case], "drop")
        pieces = [vocabulary.pieces[i].decode() for i in vocabulary.encode(" the bat")]
        assert pieces == expected, case


def test_drop_does_not_change_the_hash_of_a_lossless_file(load: Callable[..., Vocabulary]) -> None:
    """A file with a step to drop gets the hash of the same file without that step."""
    exact = byte_fallback(normalizer=None, pre_tokenizer=metaspace(prepend_scheme="never"))
    for tree in (exact, byte_fallback(), byte_level()):
        assert load(tree, "drop").hash == load(tree).hash
    first = byte_fallback(normalizer=None, pre_tokenizer=metaspace(prepend_scheme="first"))
    assert load(first, "drop").hash == load(exact).hash


@pytest.mark.parametrize("normalization", ["keep", "drop"])
def test_message_proposes_another_vocabulary_if_drop_does_not_help(
    load: Callable[..., Vocabulary], normalization: str
) -> None:
    tree = byte_fallback(pre_tokenizer={"type": "Sequence", "pretokenizers": []})
    tree["model"]["byte_fallback"] = False
    with pytest.raises(UserError, match=r"changes text: .* Choose .* that covers") as caught:
        load(tree, normalization)
    assert "drop" not in str(caught.value)


def test_model_without_unknown_token_gives_one_line_error(load: Callable[..., Vocabulary]) -> None:
    pieces = [["</s>", 0.0], ["a", -1.0]]
    eos = {**byte_fallback()["added_tokens"][2], "id": 0}
    for model in (
        {"type": "Unigram", "unk_id": None, "vocab": pieces},
        {"type": "WordLevel", "unk_token": "<unk>", "vocab": {"</s>": 0, "a": 1}},
    ):
        with pytest.raises(UserError, match=r"has no token for some text .*\. Choose"):
            load(byte_fallback(model=model, added_tokens=[eos]))


def test_unigram_encodes_piece_names_as_text(load: Callable[..., Vocabulary]) -> None:
    vocabulary = load(unigram(), "drop")
    specials = {vocabulary.eos_id, 0, 1}
    for text in ("<0x41>", "a</s>b<s><unk>", "<<s>>", f"{METASPACE}<0x0A>{METASPACE}", "</s></s>"):
        ids = vocabulary.encode(text)
        assert vocabulary.decode(ids) == text and specials.isdisjoint(ids.tolist())
    sampled = unigram()
    sampled["model"].update(alpha=0.1, nbest_size=4)
    assert load(sampled, "drop").hash == vocabulary.hash


def test_dropout_is_switched_off(load: Callable[..., Vocabulary]) -> None:
    plain = load(byte_fallback())
    tree = byte_fallback()
    tree["model"]["dropout"] = 0.5
    drawn = load(tree)
    assert drawn.hash == plain.hash  # both give the same ids, so they are the same vocabulary
    expected = plain.encode(TEXT).tolist()
    assert all(drawn.encode(TEXT).tolist() == expected for _ in range(20))
    first, again = (tokenize([TEXT] * 50, drawn).ids.tolist() for _ in range(2))
    assert first == again == tokenize([TEXT] * 50, plain).ids.tolist()


def test_truncation_padding_and_post_processor_are_ignored(load: Callable[..., Vocabulary]) -> None:
    tree = byte_fallback(
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>",
        },
        post_processor={
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
    )  # fmt: skip
    assert load(tree).hash == load(byte_fallback()).hash
    assert load(tree).encode(TEXT).tolist() == load(byte_fallback()).encode(TEXT).tolist()


def test_decoder_of_the_file_is_not_used(load: Callable[..., Vocabulary]) -> None:
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    decoders = [{"type": "ByteFallback"}, {"type": "Fuse"}, strip]
    vocabulary = load(byte_fallback(decoder={"type": "Sequence", "decoders": decoders}))
    for text in (" the bat", "  ", *round_trip_probes()):
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_text_change_of_equal_length_is_refused(load: Callable[..., Vocabulary]) -> None:
    """The round-trip texts cannot cover every case, so ``tokenize`` checks each document."""
    vocabulary = load(byte_fallback(normalizer=replacing({"Regex": "(?<=qqq)t"}, "h")))
    with pytest.raises(
        UserError, match=r"at character 5: it decodes 'a qqqta' as 'a qqqha'\. Use @huggingface"
    ):
        tokenize(["x", "a qqqta"], vocabulary)


@pytest.mark.parametrize(
    "parts",
    [
        {"added_tokens": 5},
        {"added_tokens": [{"id": 0}]},
        {"added_tokens": [None]},
        {"normalizer": "x"},
        {"normalizer": {"type": "Sequence", "normalizers": "x"}},
        {"pre_tokenizer": [1]},
        {"model": 3},
    ],
)
def test_damaged_file_gives_one_line_error(load: Callable[..., Vocabulary], parts: dict) -> None:
    for normalization in ("keep", "drop"):
        with pytest.raises(UserError, match=r"cannot be read by the tokenizers library|no 'model'"):
            load(byte_fallback(**parts), normalization)
