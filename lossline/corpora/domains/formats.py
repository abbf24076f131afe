"""Extract plain text from the file formats of packages: tables, manual pages, help pages, …

Archives are only read. Each function yields documents as ``extraction`` does.
"""

from __future__ import annotations

import ast
import csv
import gzip
import html
import io
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from lossline.corpora.extraction import Document, cut_into_pages
from lossline.corpora.registries.archives import members

SECTION_BYTES = 20_000  # size of a document that is a part of one long file


def texts(
    archive: Path,
    *patterns: str,
    clean: Callable[[str], str] = str,
    encoding: str = "utf-8",
    skip: Callable[[str], bool] = lambda name: False,
) -> Iterator[Document]:
    """Yield matching files as documents.

    Args:
        archive: package file.
        patterns: patterns of the members; a member that ends in ``.gz`` or ``.dz`` is unpacked.
        clean: converts the contents; a document that becomes blank is dropped.
        encoding: encoding of the files; invalid bytes become surrogates.
        skip: whether to leave out the member with this name.
    """
    for name, data in members(archive, *patterns):
        if skip(name):
            continue
        if name.endswith((".gz", ".dz")):
            data = gzip.decompress(data)
        text = clean(data.decode(encoding, errors="surrogateescape"))
        if text.strip():
            yield Document(source=name, text=text)


def sections(documents: Iterable[Document], size: int = SECTION_BYTES) -> Iterator[Document]:
    """Cut long files into documents of at most ``size`` bytes, at blank lines if possible.

    For packages of few long files. Without it, one file would fill a whole split.
    """
    for document in documents:
        try:
            pieces = list(cut_into_pages(document.text, size))
        except UnicodeEncodeError:  # invalid UTF-8: ``gather_corpus`` drops and counts it
            pieces = [document.text]
        for number, text in enumerate(pieces):
            yield replace(document, source=f"{document.source}#{number}", text=text)


def joined(lines: Iterable[str], source: str, count: int) -> Iterator[Document]:
    """Join every ``count`` short texts into one document, one per line."""
    rest = iter(lines)
    for number in itertools.count():
        batch = list(itertools.islice(rest, count))
        if not batch:
            return
        yield Document(source=f"{source}#{number}", text="\n".join(batch) + "\n")


def json_values(archive: Path, pattern: str, text_of: Callable[[Any], str]) -> Iterator[Document]:
    """Yield a document for each value of the object or list in JSON files.

    Args:
        archive: package file.
        pattern: pattern of the members.
        text_of: converts a value to text; a blank text is dropped.
    """
    for name, data in members(archive, pattern):
        tree = json.loads(data)
        for number, value in enumerate(tree.values() if isinstance(tree, dict) else tree):
            text = text_of(value)
            if text.strip():
                yield Document(source=f"{name}#{number}", text=text.rstrip() + "\n")


def table_rows(
    archive: Path, pattern: str, *, delimiter: str = ",", header: tuple[str, ...] = ()
) -> Iterator[dict[str, str]]:
    """Yield the rows of tables as column -> value.

    Args:
        archive: package file.
        pattern: pattern of the members.
        delimiter: character between two values.
        header: names of the columns, for tables without a first line of names.
    """
    csv.field_size_limit(sys.maxsize)
    for _, data in members(archive, pattern):
        file = io.StringIO(data.decode("utf-8-sig"), newline="")
        if header:
            yield from csv.DictReader(file, header, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        else:
            yield from csv.DictReader(file, delimiter=delimiter)


def orange_rows(archive: Path, pattern: str) -> Iterator[dict[str, str]]:
    """Yield the rows of Orange's ``.tab`` tables; two lines below the names describe types."""
    yield from itertools.islice(table_rows(archive, pattern, delimiter="\t"), 2, None)


def column(rows: Iterable[dict[str, str]], name: str, source: str) -> Iterator[Document]:
    """Yield the values of one column; marks of HTML become text."""
    for number, row in enumerate(rows):
        yield Document(source=f"{source}#{number}", text=without_tags(row[name]).strip() + "\n")


def treebank_sentences(archive: Path, pattern: str) -> Iterator[str]:
    """Yield the sentences of CoNLL-U files, without spaces before punctuation."""
    for name, data in members(archive, pattern):
        del name
        for line in data.decode().splitlines():
            if line.startswith("# text = "):
                text = line.removeprefix("# text = ")
                yield re.sub(r" ([,.;:!?%)\]»”])", r"\1", re.sub(r"([(\[«“]) ", r"\1", text))


def string_constants(archive: Path, pattern: str, least: int = 10_000) -> Iterator[Document]:
    """Yield the long string constants of Python modules; the modules are parsed, never run."""
    for name, data in members(archive, pattern):
        for node in ast.walk(ast.parse(data)):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and len(value) >= least:
                yield Document(source=name, text=value)


def windows_characters(text: str) -> str:
    """Replace C1 controls by the Windows-1252 characters that were meant, such as quotes."""
    codes = {code: bytes([code]).decode("cp1252", errors="ignore") for code in range(0x80, 0xA0)}
    return text.translate(codes)


def without_tags(text: str) -> str:
    """Convert HTML to text: paragraphs and line breaks become line ends, other tags nothing."""
    text = re.sub(r"(?is)<(script|style|head)\b.*?</\1>", "", text)
    text = re.sub(r"(?i)<br\s*/?>|</(li|tr|div)>", "\n", text)
    text = re.sub(r"(?i)</(p|h\d|blockquote|ul|ol|table|pre)>", "\n\n", text)
    text = html.unescape(re.sub(r"</?[A-Za-z!][^<>]*>", "", text))
    return folded(text)


def folded(text: str) -> str:
    """Strip each line's end, and replace several blank lines by one."""
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return re.sub(r"\n{3,}", "\n\n", lines).strip("\n") + "\n"


_MALLARD = "{http://projectmallard.org/1.0/}"


def mallard_text(text: str) -> str:
    """Convert a Mallard help page (XML) to text: titles and paragraphs, one per line."""
    page = ElementTree.fromstring(text)
    kept = []
    for element in page.iter():
        if element.tag in (f"{_MALLARD}title", f"{_MALLARD}p"):
            line = " ".join("".join(element.itertext()).split())
            if line:
                kept.append(line)
    return "\n\n".join(dict.fromkeys(kept)) + "\n"


def pod_text(text: str) -> str:
    """Convert Perl's documentation to text: headings, paragraphs and code without marks."""
    text = re.sub(r"(?ms)^=begin .*?^=end .*?$|^=(for|encoding) .*?$", "", text)
    text = re.sub(r"(?m)^=(over|back|cut|pod)\b.*$|^=(head\d|item) *", "", text)
    for _ in range(3):  # marks can stand inside marks
        text = re.sub(r"E<lt>", "\0", re.sub(r"E<gt>", "\1", text))
        text = re.sub(r"[IBCFSL]<<+ (.*?) >>+", r"\1", text, flags=re.DOTALL)
        text = re.sub(r"[XZ]<[^<>]*>", "", text)
        text = re.sub(r"L<([^<>|]*\|)?([^<>]*)>", lambda m: (m[1] or m[2]).rstrip("|"), text)
        text = re.sub(r"[IBCFS]<([^<>]*)>", r"\1", text)
    return folded(text.replace("\0", "<").replace("\1", ">"))


_ROFF_CHARACTERS = {
    "-": "-", "e": "\\", "&": "", " ": " ", "~": " ", "0": " ", "|": "", "^": "", ":": "",
    "(aq": "'", "(dq": '"', "(co": "©", "(bu": "•", "(em": "—", "(en": "–", "(lq": "“",
    "(rq": "”", "(oq": "‘", "(cq": "’", "(Fo": "«", "(Fc": "»", "(bv": "|", "(rs": "\\",
    "(ti": "~", "(ha": "^", "(ga": "`", "(->": "→", "(<=": "≤", "(>=": "≥", "(mu": "×",
    "(+-": "±", "(ss": "ß", "(:a": "ä", "(:o": "ö", "(:u": "ü", "[u2013]": "–", "%": "", "/": "",
    ",": "", "c": "", "p": "", "d": "", "u": "", "'": "´", "`": "`", "t": "\t", ".": ".",
}  # fmt: skip
_ROFF_ESCAPE = re.compile(
    r"\\(?:f(?:\[[^\]]*\]|\(..|.)|s[-+]?\d+|m\[[^\]]*\]|\*(?:\[[^\]]*\]|\(..|.)"
    r"|[hvwC]'[^']*'|(\[[^\]]*\]|\(..|.))"
)
_ROFF_FONTS = {
    "B",
    "I",
    "SM",
    "SB",
    "BR",
    "BI",
    "IR",
    "IB",
    "RB",
    "RI",
    "SH",
    "SS",
    "IP",
    "TP",
    "MT",
    "UR",
}
_ROFF_JOINED = {"BR", "BI", "IR", "IB", "RB", "RI"}
_ROFF_BREAKS = {"SH", "SS", "PP", "P", "LP", "IP", "TP", "TQ", "sp"}


def roff_text(text: str) -> str:
    """Convert a manual page of the ``man`` macros to text.

    Pages of the ``mdoc`` macros and pages that only name another page become "".
    """
    if re.search(r"(?m)^\.(Dd|so) ", text):
        return ""
    kept: list[str] = []
    table = False
    for line in text.splitlines():
        if line.startswith((".TS", ".TE")):
            table = line.startswith(".TS")
        elif table or re.match(r"['.] *\\\"", line):
            continue
        elif match := re.match(r"['.] *([A-Za-z]+) *(.*)", line):
            kept += _roff_request(match[1], match[2])
        elif not line.startswith(("'", ".")):
            kept.append(_roff_escapes(line))
    return folded("\n".join(kept))


def _roff_request(name: str, rest: str) -> list[str]:
    lines = [""] if name in _ROFF_BREAKS else []
    if name not in _ROFF_FONTS or not rest:
        return lines
    words = [quoted or word for quoted, word in re.findall(r'"((?:[^"]|"")*)"|(\S+)', rest)]
    if name == "IP":
        words = words[:1]  # the second is an indentation
    if name == "TP":
        return lines
    between = "" if name in _ROFF_JOINED else " "
    return [*lines, _roff_escapes(between.join(words))]


def _roff_escapes(line: str) -> str:
    line = re.sub(r'\\".*', "", line)
    return _ROFF_ESCAPE.sub(lambda m: _ROFF_CHARACTERS.get(m[1] or "", ""), line)
