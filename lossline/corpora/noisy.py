"""Noisy pages: real text of several domains with noise between its passages, as on the web.

Some of the noise is learned at once (markup of pages), most of it cannot be learned at all
(encoded characters, tables of numbers, words in random order). Used to study which tokens to train
on.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import string
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lossline.corpora.deduplication import content_hash
from lossline.corpora.extraction import cut_into_pages
from lossline.corpora.gathering import file_sha256, job_hash, text_folder
from lossline.corpora.json_lines import read_objects
from lossline.errors import UserError
from lossline.seeds import check_seed

RECIPE = 1  # increase when equal options give other pages
PASSAGE_BYTES = 300  # largest passage of text between two blocks of noise
BLOCK_BYTES = 200  # mean size of a block of noise


class Noise(enum.Enum):
    """Kinds of noise."""

    MARKUP = "markup"  # menus, buttons and tags of pages
    NUMBERS = "numbers"  # rows of a table
    CHARACTERS = "characters"  # encoded attachments, keys
    WORDS = "words"  # words of the page in random order, as in lists of search terms


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a page.

    Attributes:
        kind: name of the domain that the text is from, or the value of a ``Noise``.
        text: the text.
    """

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Noisy:
    """Gin component: pages of gathered domains with noise between their passages.

    A page is a document of a domain, cut if it is long. Blocks of noise stand at random places of
    it; their number varies from page to page, so that some pages are almost clean and some mostly
    noise. Pages of all domains are shuffled. Equal options and text give equal pages.

    Attributes:
        name: name of the set.
        root: data root, as in ``gather``.
        megabytes: domain -> text to take from its training split, in 10^6 bytes.
        skip_megabytes: domain -> text at the start of its training split that is left for other
            sets. Default: 0.
        noise: kind of noise -> its expected share of the bytes of all pages.
        page_kilobytes: largest text of a page without its noise, in 10^3 bytes.
        seed: seed of the noise.

    Raises:
        UserError: no domain is named, a kind of noise is unknown, or a number is out of range.
    """

    name: str
    root: str = "data"
    megabytes: Mapping[str, float]
    skip_megabytes: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    page_kilobytes: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed, "noisy.seed")
        if not self.megabytes:
            raise UserError("noisy.megabytes: no domain named. Give at least one.")
        for name in ("megabytes", "skip_megabytes"):
            for domain, size in getattr(self, name).items():
                if size < 0 or domain not in self.megabytes:
                    fix = "Give at least 0." if size < 0 else "Name it in noisy.megabytes too."
                    raise UserError(f"noisy.{name}: {domain!r} has {size}. {fix}")
        kinds = [kind.value for kind in Noise]
        for kind, share in self.noise.items():
            if kind not in kinds:
                raise UserError(f"noisy.noise: no kind {kind!r}. Use one of {', '.join(kinds)}.")
            if share < 0 or sum(self.noise.values()) >= 1:
                raise UserError(
                    f"noisy.noise: {dict(self.noise)}: give shares of at least 0 with a sum "
                    "below 1."
                )
        if self.page_kilobytes * 1000 < PASSAGE_BYTES:
            raise UserError(
                f"noisy.page_kilobytes = {self.page_kilobytes:g}: give at least "
                f"{PASSAGE_BYTES / 1000:g}."
            )

    @property
    def license(self) -> str:
        """License of the texts."""
        return "each domain has its own; see the provenance of its corpus"

    def __str__(self) -> str:
        domains = ", ".join(f"{name} {size:g} MB" for name, size in self.megabytes.items())
        noise = ", ".join(f"{kind} {share:.0%}" for kind, share in self.noise.items())
        return f"pages of {domains}; noise by bytes: {noise or 'none'}"

    def identity(self) -> str:
        """Return the SHA-256 (hex) of options and text; it does not depend on ``root``.

        Raises:
            UserError: a domain is not gathered.
        """
        options = {
            item.name: getattr(self, item.name)
            for item in dataclasses.fields(self)
            if item.name not in ("name", "root")
        }
        mappings = {k: dict(v) if isinstance(v, Mapping) else v for k, v in options.items()}
        contents = {domain: file_sha256(self._file(domain)) for domain in self.megabytes}
        return job_hash("Noisy", RECIPE, mappings, contents)

    def text_bytes(self) -> int:
        """Return the expected bytes of all pages."""
        return round(1e6 * sum(self.megabytes.values()) / (1 - sum(self.noise.values())))

    def texts(self) -> Iterator[str]:
        """Yield the pages; see ``pages`` for the errors."""
        for pieces in self.pages():
            yield "".join(piece.text for piece in pieces)

    def pages(self) -> Iterator[list[Piece]]:
        """Yield the pieces of each page; joined, they are its text.

        Raises:
            UserError: a domain is not gathered, or has less text than asked for.
        """
        clean = [
            (self._seed(domain, text), domain, text)
            for domain in self.megabytes
            for text in self._clean(domain)
        ]
        for seed, domain, text in sorted(clean):
            yield self._with_noise(domain, text, np.random.default_rng(seed))

    def _seed(self, domain: str, text: str) -> int:
        """Return the seed of a page, which is also its place among the pages."""
        digest = hashlib.sha256(f"{self.seed} {domain} {content_hash(text)}".encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def _file(self, domain: str) -> Path:
        file = text_folder(Path(self.root), domain) / "train.jsonl"
        if not file.is_file():
            raise UserError(
                f"noisy {self.name}: {file} is not there. Gather {domain!r} with python -m "
                "lossline.gather."
            )
        return file

    def _clean(self, domain: str) -> Iterator[str]:
        """Yield pages of a domain without noise: after the skipped text, as much as asked for."""
        skip = self.skip_megabytes.get(domain, 0.0) * 1e6
        room = self.megabytes[domain] * 1e6
        for _, record in read_objects(self._file(domain)):
            text = str(record["text"])
            skip -= len(text.encode())
            if skip >= 0:
                continue
            for page in cut_into_pages(text, int(self.page_kilobytes * 1000)):
                room -= len(page.encode())
                if room < 0:
                    return
                yield page
        if room > self.page_kilobytes * 1000:
            raise UserError(
                f"noisy {self.name}: domain {domain!r} has {room / 1e6:.2f} MB less than "
                "noisy.megabytes and noisy.skip_megabytes ask for. Lower them, or gather more."
            )

    def _with_noise(self, domain: str, text: str, random: np.random.Generator) -> list[Piece]:
        passages = list(cut_into_pages(text, PASSAGE_BYTES))
        noise_per_byte = {
            kind: share / (1 - sum(self.noise.values())) for kind, share in self.noise.items()
        }
        blocks: dict[int, list[Piece]] = {}
        for kind, share in sorted(noise_per_byte.items()):
            for _ in range(random.poisson(share * len(text.encode()) / BLOCK_BYTES)):
                place = int(random.integers(len(passages)))
                block = Piece(kind=kind, text=_block(Noise(kind), text, random))
                blocks.setdefault(place, []).append(block)
        pieces = []
        for place, passage in enumerate(passages):
            pieces += [Piece(kind=domain, text=passage), *blocks.get(place, ())]
        return pieces


def _block(kind: Noise, page: str, random: np.random.Generator) -> str:
    """Return lines of noise of about ``BLOCK_BYTES``, from half to three halves of it."""
    size = int(random.integers(BLOCK_BYTES // 2, 3 * BLOCK_BYTES // 2 + 1))
    line = _LINES[kind]
    lines, length = [""], 1
    while length < size:
        lines.append(line(page, random))
        length += len(lines[-1].encode()) + 1
    return "\n".join([*lines, ""])


def _markup(page: str, random: np.random.Generator) -> str:
    del page
    return str(random.choice(_MARKUP))


def _numbers(page: str, random: np.random.Generator) -> str:
    del page
    scale = 10.0 ** random.integers(0, 4, size=5)
    return "\t".join(f"{value:.2f}" for value in scale * random.random(5))


def _characters(page: str, random: np.random.Generator) -> str:
    del page
    return "".join(random.choice(_ALPHABET, size=64))


def _words(page: str, random: np.random.Generator) -> str:
    return " ".join(random.choice(page.split() or [""], size=10))


_LINES: Mapping[Noise, Callable[[str, np.random.Generator], str]] = {
    Noise.MARKUP: _markup,
    Noise.NUMBERS: _numbers,
    Noise.CHARACTERS: _characters,
    Noise.WORDS: _words,
}
_ALPHABET = list(string.ascii_letters + string.digits + "+/")
_MARKUP = (
    '<div class="nav"><a href="/">Home</a> | <a href="/about">About us</a></div>',
    '<li><a href="/contact.html">Contact</a></li>',
    '<img src="/images/spacer.gif" width="1" height="1" alt="">',
    "Skip to main content",
    "This site uses cookies. By continuing you agree to our use of cookies.",
    "Share on Facebook | Tweet | Email this page | Print",
    "Log in to your account or create a new one",
    "Subscribe to our newsletter",
    "All rights reserved. Terms of use | Privacy policy | Site map",
    '<span class="button">Read more &raquo;</span>',
    "&nbsp;&nbsp;&nbsp;&copy; &nbsp;",
    '<script type="text/javascript">document.write("");</script>',
)
