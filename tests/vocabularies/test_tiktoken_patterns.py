"""Named tiktoken patterns equal tiktoken's patterns and split difficult text equally."""

import base64
import random
from pathlib import Path

import pytest
import tiktoken
from tiktoken_ext import openai_public

from lossline import vocabularies
from lossline.errors import UserError
from lossline.vocabularies import Tiktoken, round_trip_probes
from lossline.vocabularies.tiktoken import PATTERNS

SHORT_NAMES = {"cl100k": "cl100k_base", "o200k": "o200k_base"}
RANKS = {bytes([value]): value for value in range(256)} | {
    piece: 256 + place for place, piece in enumerate((b"th", b"he", b" t", b"in", b"  ", b"\n\n"))
}
HARD_TEXTS = [
    "a\n        b\n\n\n  c\r\n\t\td  \r\n",
    "stop.\n        next!\n       ?\n ...\n\n",
    "\n        .\n        !",
    "it's IT'S we'LL I'd they'RE 'tis ''s",
    "1 12 123 1234 12345.678 1,000 x1y2 ½ ² ①",
    "中文。文本，混合 mixed 语言\u3000全角",
    "😀😀 👩‍👩‍👧‍👦 🇩🇪! a😀b",
    "éÉ e\u0301 İ ß ǅ",
    "https://x.y/z?q=1//\n/ a/b\n",
    " ", "  ", "\n", "\r", " \n ", "\u00a0 \u2003\n", "end  ", "  start",
]  # fmt: skip


@pytest.fixture
def ranks(tmp_path: Path) -> Path:
    path = tmp_path / "mini.tiktoken"
    path.write_text("".join(f"{base64.b64encode(t).decode()} {i}\n" for t, i in RANKS.items()))
    return path


def published_pattern(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    """Return a pattern from tiktoken, without the download of its ranks."""
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(openai_public, loader, lambda *args, **kwargs: {})
    return openai_public.ENCODING_CONSTRUCTORS[name]()["pat_str"]


def test_every_tiktoken_encoding_has_a_named_pattern() -> None:
    assert set(openai_public.ENCODING_CONSTRUCTORS) | set(SHORT_NAMES) == set(PATTERNS)


@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_named_patterns_match_tiktoken(
    ranks: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    published = published_pattern(monkeypatch, SHORT_NAMES.get(name, name))
    assert PATTERNS[name] == published
    theirs = tiktoken.Encoding(
        "theirs", pat_str=published, mergeable_ranks=RANKS, special_tokens={"<|endoftext|>": 262}
    )
    ours = vocabularies.load(Tiktoken(path=str(ranks), pattern=name))
    draw = random.Random(1)
    alphabet = "aB '\n\r\t.!?12中é😀/\u3000s"
    drawn = ["".join(draw.choices(alphabet, k=40)) for _ in range(200)]
    texts = [*HARD_TEXTS, *drawn, *round_trip_probes()]
    for text, ids in zip(texts, ours.encode_batch(texts), strict=True):
        assert ids.tolist() == theirs.encode_ordinary(text)
        assert ours.decode(ids) == text


def test_bad_pattern_or_rank_gives_one_line_error(ranks: Path, tmp_path: Path) -> None:
    lines = ranks.read_text().splitlines()

    def changed(name: str, number: int, line: str) -> str:
        path = tmp_path / name
        path.write_text("\n".join([*lines[: number - 1], line, *lines[number:]]))
        return str(path)

    good = str(ranks)
    for path, pattern, message in (
        (good, "(", "tiktoken.pattern '\\(' is not a regular expression"),
        (good, r"\w+", "changes text: .* Set tiktoken.pattern to one that drops no character"),
        (changed("words", 258, "aGU= 257 1"), "gpt2", "line 258: 3 words instead of two"),
        (changed("base", 258, "a 257"), "gpt2", "line 258"),
        (changed("negative", 260, "aW4= -1"), "gpt2", "line 260: .* rank -1"),
        (changed("rank", 260, "aW4= 257"), "gpt2", "line 260: repeats .* of line 258"),
        (changed("token", 260, "aGU= 259"), "gpt2", "line 260: repeats .* of line 258"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            vocabularies.load(Tiktoken(path=path, pattern=pattern))
        assert "\n" not in str(caught.value) and "normalization" not in str(caught.value)


def test_text_that_a_pattern_cannot_split_gives_one_line_error(ranks: Path) -> None:
    """The o200k pattern needs stack memory proportional to the number of spaces in a row."""
    vocabulary = vocabularies.load(Tiktoken(path=str(ranks), pattern="o200k"))
    with pytest.raises(UserError, match=r"cannot split the text .* of 1000000 characters"):
        vocabulary.encode(" " * 1_000_000)
