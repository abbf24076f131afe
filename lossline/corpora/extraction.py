"""Extract plain text from the files of packages: one function per kind of file.

Each function yields ``Document`` objects. Archives are only read, never executed. A pickle is
scanned for strings, never loaded.
"""

from __future__ import annotations

import gzip
import io
import itertools
import pickletools
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from lossline.corpora.registries.archives import member, members
from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Document:
    """A text and its source.

    Attributes:
        source: member of the package, plus the position inside the member if it has several texts.
        text: the text; invalid UTF-8 is decoded with ``surrogateescape``.
    """

    source: str
    text: str


def files(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield every matching file as one document.

    Invalid UTF-8 becomes surrogates; ``gather_corpus`` drops and counts such documents.
    """
    for name, data in members(archive, pattern):
        yield Document(source=name, text=data.decode(errors="surrogateescape"))


def cut_into_pages(text: str, limit: int) -> Iterator[str]:
    """Cut a text into pages of at most ``limit`` UTF-8 bytes; joined, they give the text again.

    A page ends in its second half, at the last blank line if there is one, else at the last line
    end, else at the last space; a text without them is cut between two characters.
    """
    data, start = text.encode(), 0
    while len(data) - start > limit:
        half, stop = start + limit // 2, start + limit
        ends = (data.rfind(mark, half, stop) + len(mark) for mark in (b"\n\n", b"\n", b" "))
        end = next((end for end in ends if end > half), 0)
        if not end:
            end = start + len(data[start:stop].decode(errors="ignore").encode())
        yield data[start:end].decode()
        start = end
    if start < len(data):
        yield data[start:].decode()


def pubmed_abstracts(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield title and abstract of every citation with an abstract, from PubMed baseline XML.

    Raises:
        UserError: the XML is damaged.
    """
    for name, data in members(archive, pattern):
        with gzip.open(io.BytesIO(data)) as file:
            for citation in _elements(file, "PubmedArticle"):
                title = _joined(citation.find(".//ArticleTitle"))
                parts = [_joined(part) for part in citation.findall(".//Abstract/AbstractText")]
                labels = [
                    part.get("Label") for part in citation.findall(".//Abstract/AbstractText")
                ]
                abstract = "\n".join(
                    f"{label}: {part}" if label else part
                    for label, part in zip(labels, parts, strict=True)
                    if part
                )
                if abstract:
                    identifier = citation.findtext(".//PMID")
                    yield Document(source=f"{name}#{identifier}", text=f"{title}\n\n{abstract}\n")


def wikitext_articles(archive: Path, pattern: str) -> Iterator[Document]:
    """Yield the articles of raw WikiText files, detokenized."""
    for name, data in members(archive, pattern):
        lines = gzip.decompress(data).decode().split("\n")
        starts = [i for i, line in enumerate(lines) if _is_article_title(lines, i)]
        for start, stop in itertools.pairwise([*starts, len(lines)]):
            text = detokenize_wikitext("\n".join(lines[start:stop]))
            yield Document(source=f"{name}#{lines[start].strip(' =')}", text=text)


def scancode_texts(archive: Path, *patterns: str) -> Iterator[Document]:
    """Yield ScanCode's license texts without their YAML front matter."""
    for name, data in members(archive, *patterns):
        parts = re.split(r"^---\s*$", data.decode(), maxsplit=2, flags=re.MULTILINE)
        if len(parts) == 3:
            yield Document(source=name, text=parts[2].strip("\n") + "\n")


def parquet_column(archive: Path, pattern: str, column: str) -> Iterator[Document]:
    """Yield every text in one column of a Parquet file; skip null values."""
    import pyarrow.parquet

    data = pyarrow.BufferReader(member(archive, pattern))
    for row, value in enumerate(pyarrow.parquet.read_table(data, columns=[column])[column]):
        if value.is_valid:
            yield Document(source=f"{pattern}#{row}", text=value.as_py())


def pickled_lines(archive: Path, pattern: str, lines_per_document: int = 60) -> Iterator[Document]:
    """Yield the strings of a gzipped pickle in order, joined into documents.

    The pickle is never loaded, because loading executes code. This function lists its opcodes and
    keeps the arguments of string opcodes.

    Args:
        archive: package file.
        pattern: pattern of the member that is the pickle.
        lines_per_document: strings per document, one per line.
    """
    stream = io.BytesIO(gzip.decompress(member(archive, pattern)))
    strings = (
        argument
        for opcode, argument, _ in pickletools.genops(stream)
        if opcode.name in {"SHORT_BINUNICODE", "BINUNICODE"} and argument and "\n" not in argument
    )
    for number in itertools.count():
        lines = list(itertools.islice(strings, lines_per_document))
        if not lines:
            return
        yield Document(source=f"{pattern}#{number}", text="\n".join(lines) + "\n")


def detokenize_wikitext(text: str) -> str:
    """Undo the tokenization of WikiText, such as " @-@ " and spaces before punctuation.

    Follows Megatron-LM's WikiText detokenizer (NVIDIA/Megatron-LM,
    ``tasks/zeroshot_gpt/detokenizer.py``), line by line. Headings keep their "=" marks.
    """
    return "\n".join(map(_detokenize_line, text.split("\n"))).strip("\n") + "\n"


_BRACKETS = [
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r"\"\s*([^\"]*?)\s*\""), r'"\1"'),
    (re.compile(r"(?<![\w])'\s*([^']*?)\s*'(?![\w])"), r"'\1'"),
]


def _detokenize_line(line: str) -> str:
    line = line.strip()
    heading = re.fullmatch(r"((?:= )+)(.*?)((?: =)+)", line)
    if heading:
        marks = "=" * heading.group(1).count("=")
        return f"{marks} {_detokenize_line(heading.group(2))} {marks}"
    line = re.sub(r" @([-,.])@ ", r"\1", line)
    line = line.replace("s ' ", "s' ")
    line = re.sub(r" ('(?:s|t|re|ve|m|ll|d|S)\b)", r"\1", line)
    for pattern, replacement in _BRACKETS:
        line = pattern.sub(replacement, line)
    line = re.sub(r" ([:;.!?,%])(?= |$|[\"')\]])", r"\1", line)
    return (
        line.replace("\u00b0 ", "\u00b0").replace("$ ", "$").replace("£ ", "£").replace("# ", "#")
    )


def _is_article_title(lines: list[str], index: int) -> bool:
    """Return whether a line is an article title: text between single "=", after a blank line."""
    line = lines[index].strip()
    blank_before = index == 0 or not lines[index - 1].strip()
    return bool(re.fullmatch(r"= [^=].* =", line)) and not line.endswith("= =") and blank_before


def _elements(file: IO[bytes] | gzip.GzipFile, tag: str) -> Iterator[Any]:
    """Yield the elements with this tag; clear each one after use to limit memory."""
    try:
        for _, element in ElementTree.iterparse(file, events=("end",)):
            if element.tag == tag:
                yield element
                element.clear()
    except (ElementTree.ParseError, EOFError, zlib.error) as error:
        raise UserError(
            f"PubMed XML is damaged ({error}). Delete the package and gather again."
        ) from error


def _joined(element: Any) -> str:
    return " ".join("".join(element.itertext()).split()) if element is not None else ""
