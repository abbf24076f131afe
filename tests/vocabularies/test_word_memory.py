"""Words kept in memory give the ids of the library, for every text; otherwise they are not used."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossline import vocabularies
from lossline.errors import UserError
from lossline.stores.tokenization import tokenize
from lossline.vocabularies import Encoded, HuggingFace, Normalization, word_memory
from lossline.vocabularies.library_vocabulary import LibraryVocabulary
from lossline.vocabularies.tiktoken import PATTERNS
from lossline.vocabularies.training import Algorithm, train
from lossline.vocabularies.word_memory import Split, WordMemory
from lossline.vocabularies.word_patterns import GPT2, LLAMA3, before_spaces, between_pieces

QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEXT = [
    "The quick brown fox; it's 3.14 o'clock, we'LL see 1234567 cases. HTTPServer isn't iPhone\n",
    "def function(argument):\n        return [argument for _ in range(10)]\n\n\n\n  x  y\t\tz\n",
    "Größe, élève naïve — 語学 и слово, ещё слово.\n\tindented “quoted” don’t 12 + 12 = 24\n",
] * 20
# Fragments whose neighbours decide where a word ends.
FRAGMENTS = [
    "'", "'s", "'S", "'ll", "'LL", "'re", "'ve", "'t", " ", " ", "  ", "   ", "\n", "\r\n", "\t",
    " \n", "\n ", "/", "a", "A", "Ab", "aB", "ABC", "the", " The", "1", "23", " 4", "1234", ".",
    "!", "?", "(", "_", "-", "\x00", "\x1e", "\x7f", "\x0b", "\x1c", "\x1f", "\x85", "\xa0",
    "\u1680",
    "\u2003", "\u2028", "\u202f", "\u3000", "\u180e", "\u200b", "\ufeff", "\xad", "²", "½", "٣",
    "ⅷ", "①", "é", "É", "e\u0301", "\u0301", "ſ", "'ſ", "\u212a", "ß", "ŉ", "ǅ", "ʰ", "İ", "中",
    " 語", "слово", " и", "😀", "👩‍👩‍👧", "\U0010ffff", "<|endoftext|>", "</s>", "<0x41>",
    "|||X|||", "||", "<t>", "\u2581", " \u2581", "x", "foo(bar)", "  return x\n", "…", "’s", "ﬁ",
]  # fmt: skip


def split_by(pattern: str) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return in_order({**step, "invert": False}, byte_level(use_regex=False))


def byte_level(**options: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, **options}


def in_order(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def metaspace(*, split: bool) -> dict[str, Any]:
    return {
        "type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": split,
    }  # fmt: skip


PRE_TOKENIZERS = {
    "GPT-2": byte_level(use_regex=True),
    "GPT-2 as a split": split_by(GPT2),
    "Llama 3": split_by(LLAMA3),
    "Qwen 2": split_by(QWEN2),
    "o200k": split_by(PATTERNS["o200k"]),
    "digits": in_order({"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)),
}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}


def added(content: str, **flags: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, **flags}
    return {"content": content, "special": False, **flags}


@pytest.fixture(scope="module")
def bpe() -> dict[str, Any]:
    return json.loads(train(TEXT, Algorithm.BPE, 500, name="bpe"))


@pytest.fixture(scope="module")
def metaspace_bpe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A BPE with byte fallback, like Llama 2."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer=trainer)
    tree = json.loads(tokenizer.to_str())
    return {**tree, "added_tokens": tree["added_tokens"][:3], "pre_tokenizer": None}


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LibraryVocabulary]:
    def load(tree: dict[str, Any], tokens: list[dict[str, Any]] | None = None) -> Any:
        first = max(tree["model"]["vocab"].values()) + 1
        more = [{**token, "id": first + i} for i, token in enumerate(tokens or [])]
        path = tmp_path / "made.json"
        path.write_text(json.dumps({**tree, "added_tokens": [*tree["added_tokens"], *more]}))
        return vocabularies.load(
            HuggingFace(path=str(path), normalization=Normalization.KEEP, name="made")
        )

    return load


def drawn(seed: int, count: int) -> list[str]:
    """Return texts of fragments, of few fragments in many orders, and of any characters."""
    draw = random.Random(seed)
    texts = []
    for number in range(count):
        among = FRAGMENTS if number % 3 else draw.sample(FRAGMENTS, 4)
        texts.append("".join(draw.choices(among, k=draw.randrange(16))))
    points = [draw.randrange(0x11000) for _ in range(20 * count)]
    characters = "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)
    return texts + [characters[i : i + 20] for i in range(0, len(characters), 20)]


def check_equal_ids(vocabulary: Any, count: int = 250) -> None:
    assert vocabulary.slow_because == "" and vocabulary._memory is not None
    for seed in range(2):  # the second time, many words are known
        texts = [*TEXT[:3], *drawn(seed, count)]
        expected = vocabulary._encode_texts(texts)
        found = vocabulary.encode_batch(texts)
        for text, ids, wanted in zip(texts, found, expected, strict=True):
            assert ids.tolist() == list(wanted), repr(text)


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_words_of_byte_level_tokenizers_have_equal_ids(
    load: Callable[..., Any], bpe: dict[str, Any], name: str
) -> None:
    check_equal_ids(load({**bpe, "pre_tokenizer": PRE_TOKENIZERS[name]}))


def test_added_tokens_have_equal_ids(load: Callable[..., Any], bpe: dict[str, Any]) -> None:
    """As in NeoX and OLMo: runs of spaces, and names of what was removed."""
    tokens = [added(" " * size) for size in range(2, 6)]
    tokens += [added("|||X|||", normalized=False), added("<t>", normalized=False)]
    vocabulary = load(bpe, tokens)
    check_equal_ids(vocabulary)
    assert vocabulary.pieces[vocabulary.encode("a   b")[1]] == b"   "


@pytest.mark.parametrize("split", [None, True, False])
def test_words_between_metaspaces_have_equal_ids(
    load: Callable[..., Any], metaspace_bpe: dict[str, Any], split: bool | None
) -> None:
    if split is None:
        check_equal_ids(load({**metaspace_bpe, "normalizer": REPLACE}))
    else:
        check_equal_ids(load({**metaspace_bpe, "pre_tokenizer": metaspace(split=split)}))


def test_words_of_sentencepiece_have_equal_ids_unless_scores_are_added(tmp_path: Path) -> None:
    for algorithm in (Algorithm.SENTENCEPIECE_BPE, Algorithm.UNIGRAM):
        path = tmp_path / f"{algorithm.value}.model"
        path.write_bytes(train(TEXT, algorithm, 340, name="model"))
        vocabulary: Any = vocabularies.load(str(path))
        if algorithm is Algorithm.SENTENCEPIECE_BPE:
            check_equal_ids(vocabulary)
        else:
            assert vocabulary.slow_because == "its model adds scores over the whole text"


def test_unknown_tokenizers_are_encoded_by_the_library(
    load: Callable[..., Any], bpe: dict[str, Any], metaspace_bpe: dict[str, Any]
) -> None:
    # The library reads {1,3}+ as a repetition, tiktoken as "never give back".
    possessive = split_by(PATTERNS["cl100k"])
    joining = json.loads(json.dumps({**metaspace_bpe, "normalizer": REPLACE}))
    joining["model"]["vocab"]["e\u2581"] = 5000
    joining["model"]["merges"].append(["e", "\u2581"])
    for tree, tokens, reason in (
        ({**bpe, "pre_tokenizer": possessive}, [], "its pre-tokenizer is not known"),
        ({**bpe, "pre_tokenizer": split_by(r"\s|\S+")}, [], "its pre-tokenizer is not known"),
        (bpe, [added("fox", single_word=True)], "depends on the text around it"),
        (bpe, [added("<|endo")], "its added tokens overlap"),
        (bpe, [added("bc"), added("ab", normalized=False)], "its added tokens overlap"),
        (bpe, [added("of the")], "contains several words"),
        (joining, [], "its pieces join words"),
    ):
        vocabulary = load(tree, tokens)
        assert reason in vocabulary.slow_because
        text = "the fox 1234 <|endoftext|> of the abc e x"
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_words_that_are_not_the_librarys_are_not_used(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any], bpe: dict[str, Any]
) -> None:
    monkeypatch.setattr(
        "lossline.vocabularies.huggingface.split_of", lambda tree: Split(before_spaces())
    )
    assert "not those of the installed library" in load(bpe).slow_because


def test_memory_is_bounded_and_keeps_the_ids_equal(
    load: Callable[..., Any], bpe: dict[str, Any]
) -> None:
    vocabulary = load(bpe)
    memory = WordMemory(
        vocabulary._memory._split, vocabulary, vocabulary._encode_texts, limit=20_000
    )
    draw = random.Random(3)
    largest = 0
    for _ in range(40):
        texts = [f" {draw.randrange(10**9):x}" * 3 + "x" * 1000 for _ in range(20)]
        encoded = memory.encode(texts)
        assert encoded is not None and np.array_equal(
            encoded.ids, np.concatenate(vocabulary._encode_texts(texts))
        )
        largest = max(largest, memory.size)
        assert memory.size <= 20_000 and all(
            len(w) <= word_memory.LONGEST_KEPT for w in memory._kept
        )
    assert largest > 5_000


def test_long_document_is_cut_between_words(
    monkeypatch: pytest.MonkeyPatch, load: Callable[..., Any], bpe: dict[str, Any]
) -> None:
    monkeypatch.setattr(word_memory, "GROUP", 50)
    parts: list[str] = []
    original = word_memory._parts
    monkeypatch.setattr(
        word_memory, "_parts", lambda text: [parts.append(p) or p for p in original(text)]
    )
    vocabulary = load(bpe)
    parts.clear()
    texts = ["".join(TEXT[:9]), "", "a" * 400, "b"]
    found = vocabulary.encode_batch(texts)
    assert [ids.tolist() for ids in found] == list(map(list, vocabulary._encode_texts(texts)))
    assert len(parts) > 8 and max(map(len, parts)) == 400


def test_changed_text_is_still_refused(
    load: Callable[..., Any], bpe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that drops a letter where no test text shows it."""
    vocabulary = load(bpe)
    original = vocabulary._ids
    monkeypatch.setattr(
        vocabulary, "_ids", lambda texts: original([t.replace("qzq", "qz") for t in texts])
    )
    assert tokenize(["a quiet day", ""], vocabulary).lengths[1] == 1
    with pytest.raises(UserError, match="changes the text 'a qzq' at character 4"):
        tokenize(["a", "a qzq"], vocabulary)


def test_comparison_with_the_text_agrees_with_decoding(
    load: Callable[..., Any], bpe: dict[str, Any]
) -> None:
    vocabulary = load(bpe, [added("0123456789 of 18 bytes", normalized=False)])
    text = "".join([*TEXT[:3], "0123456789 of 18 bytes\x00"])
    ids = vocabulary.encode(text)

    def agrees(ids: np.ndarray, text: str) -> bool:
        encoded = Encoded(ids=ids, lengths=np.array([len(ids)]))
        return vocabulary.are_tokens_of(encoded, text.encode(), np.array([len(text.encode())]))

    assert agrees(ids, text)
    draw = random.Random(5)
    for _ in range(300):
        other = ids.copy()
        other[draw.randrange(len(ids))] = draw.randrange(vocabulary.vocab_size)
        assert agrees(other, text) is (vocabulary.decode_bytes(other) == text.encode())
    for changed in ("", text[:-1], text + "x", text.replace("of 18", "of 19"), text[1:] + text[0]):
        assert not agrees(ids, changed)
    assert agrees(ids[:0], "") and not agrees(ids[:0], "a")


def test_words_are_cut_where_no_piece_joins_characters() -> None:
    found = between_pieces(["th", "the", " the", "\n\n", "ab12", ");", "é", "\x1e\x1e"])
    assert found is not None and found[1] == "\x1d"
    assert found[0].findall("the the\n\n\nf(x); ab1 éé1") == [
        "the", " the", "\n\n\n", "f", "(", "x", ");", " ab1", " ", "éé", "1",
    ]  # fmt: skip
    assert between_pieces(["a b"]) is None


def test_bytes_that_move_between_documents_are_refused(
    load: Callable[..., Any], bpe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary = load({**bpe, "pre_tokenizer": split_by(r"\s|\S+")})
    moved = vocabulary._encode_anew(["ab", "c"])
    monkeypatch.setattr(vocabulary, "_encode_anew", lambda texts: moved)
    with pytest.raises(UserError, match="changes the text 'a' at character 1"):
        tokenize(["a", "bc"], vocabulary)
