"""Registered corpora: reference works and technical documentation."""

from __future__ import annotations

from lossline.corpora.domains import formats, released
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.domains.formats import sections, texts

REFERENCE = (
    Corpus(
        name="docs_django",
        megabytes=6.1,
        title="Documentation of Django in reStructuredText",
        packages={released.DJANGO_SOURCE: lambda path: texts(path, "django-*/docs/*.txt")},
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="man_pages",
        megabytes=4.9,
        title="Manual pages of system calls and C functions",
        packages={
            released.MANPAGES_DEV: lambda path: texts(
                path, "*/man/man*/*.gz", clean=formats.roff_text
            )
        },
        content_license="GPL-2.0-or-later and others, by page",
        cleaning="marks of roff removed; tables dropped",
    ),
    Corpus(
        name="docs_perl",
        megabytes=20.0,
        title="Documentation of Perl",
        packages={
            released.PERL_DOC: lambda path: texts(
                path, "*/pod/*.pod", clean=formats.pod_text, skip=lambda name: "perltoc" in name
            )
        },
        content_license="Artistic-1.0-Perl OR GPL-1.0-or-later",
        cleaning="marks of POD removed",
    ),
    Corpus(
        name="dictionary",
        megabytes=40.0,
        title="Webster's dictionary of 1913 with additions (GCIDE)",
        packages={
            released.GCIDE: lambda path: sections(
                texts(path, "*/gcide.dict.dz", encoding="latin-1"), 8000
            )
        },
        content_license="GPL-3.0-or-later",
        cleaning="cut into documents of 8 kB at blank lines",
    ),
    Corpus(
        name="computing",
        megabytes=5.6,
        title="Free On-line Dictionary of Computing",
        packages={released.FOLDOC: lambda path: sections(texts(path, "*/foldoc.dict.dz"), 8000)},
        content_license="GFDL-1.1-or-later",
        cleaning="cut into documents of 8 kB at blank lines",
    ),
)
