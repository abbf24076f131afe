"""Registered corpora: source code and formal mathematics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lossline.corpora import extraction
from lossline.corpora.domains import released
from lossline.corpora.domains.corpus import Corpus
from lossline.corpora.domains.formats import sections, texts
from lossline.corpora.extraction import Document

_THREE_LIBRARIES = "/libs/"  # compressed code of other projects


def _python_source(path: Path) -> Iterator[Document]:
    return extraction.files(path, "*.py")


CODE = (
    Corpus(
        name="python",
        megabytes=31.9,
        title="Python source code of SymPy and Django",
        packages={released.SYMPY: _python_source, released.DJANGO: _python_source},
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="python_math",
        megabytes=26.2,
        title="Python source code of SymPy",
        packages={released.SYMPY: lambda path: texts(path, "*.py")},
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="python_web",
        megabytes=5.7,
        title="Python source code of Django, without its tests",
        packages={released.DJANGO_SOURCE: lambda path: texts(path, "django-*/django/*.py")},
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="python_tests",
        megabytes=12.4,
        title="Unit tests of Django in Python",
        packages={released.DJANGO_SOURCE: lambda path: texts(path, "django-*/tests/*.py")},
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="python_graphs",
        megabytes=6.5,
        title="Python source code of NetworkX",
        packages={released.NETWORKX: lambda path: texts(path, "*.py")},
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="python_automation",
        megabytes=6.8,
        title="Python source code of Ansible, with YAML documentation inside",
        packages={released.ANSIBLE_CORE: lambda path: texts(path, "*.py")},
        content_license="GPL-3.0-or-later",
    ),
    Corpus(
        name="c",
        megabytes=6.0,
        title="C source code of c-ares, zlib and upb",
        packages={
            released.GRPCIO: lambda path: texts(
                path,
                "*/third_party/*.c",
                "*/third_party/cares/*.h",
                "*/third_party/zlib/*.h",
                "*/third_party/upb/*.h",
                skip=lambda name: name.endswith(
                    (".upb.h", ".upbdefs.c", ".upbdefs.h", ".upb_minitable.c", ".upb_minitable.h")
                ),
            )
        },
        content_license="MIT, Zlib and BSD-3-Clause, by library",
    ),
    Corpus(
        name="cpp",
        megabytes=10.0,
        title="C++ source code of gRPC's core and Abseil",
        packages={
            released.GRPCIO: lambda path: texts(
                path,
                "*/src/core/[a-z]*.cc",
                "*/src/core/lib/*.h",
                "*/abseil-cpp/absl/*.cc",
                "*/abseil-cpp/absl/*.h",
                skip=lambda name: "/ext/upb" in name,
            )
        },
        content_license="Apache-2.0",
    ),
    Corpus(
        name="javascript_plots",
        megabytes=5.0,
        title="JavaScript of Bokeh, compiled from TypeScript",
        packages={
            released.BOKEH: lambda path: sections(
                texts(
                    path,
                    "*/static/js/bokeh.js",
                    "*/static/js/bokeh-widgets.js",
                    "*/static/js/bokeh-tables.js",
                )
            )
        },
        content_license="BSD-3-Clause",
        cleaning="cut into documents of 20 kB at blank lines",
    ),
    Corpus(
        name="typescript",
        megabytes=4.0,
        title="TypeScript declarations of Bokeh and of the web's interfaces",
        packages={released.BOKEH: lambda path: sections(texts(path, "*.d.ts"))},
        content_license="BSD-3-Clause AND Apache-2.0",
        cleaning="cut into documents of 20 kB at blank lines",
    ),
    Corpus(
        name="code_samples",
        megabytes=5.0,
        title="Example programs in several hundred languages, collected by Pygments",
        packages={
            released.PYGMENTS: lambda path: sections(
                texts(
                    path,
                    "*/tests/examplefiles/*",
                    skip=lambda name: name.endswith((".output", ".py")),
                )
            )
        },
        content_license="BSD-2-Clause (the collection; unverified for single files)",
        cleaning="cut into documents of 20 kB at blank lines",
    ),
    Corpus(
        name="javascript",
        megabytes=12.0,
        title="JavaScript source code and examples of three.js",
        packages={
            released.THREE: lambda path: texts(
                path,
                "package/src/*.js",
                "package/examples/jsm/*.js",
                skip=lambda name: _THREE_LIBRARIES in name,
            )
        },
        content_license="MIT",
    ),
    Corpus(
        name="go",
        megabytes=20.0,
        title="Go source code of the standard library: networks, encodings, cryptography",
        packages={
            released.GOLANG: lambda path: texts(
                path,
                "*/src/net/*.go",
                "*/src/encoding/*.go",
                "*/src/crypto/*.go",
                "*/src/go/*.go",
                "*/src/os/*.go",
                "*/src/text/*.go",
                "*/src/time/*.go",
                skip=lambda name: "/tzdata/" in name or "tables.go" in name,
            )
        },
        content_license="BSD-3-Clause",
    ),
    Corpus(
        name="rust",
        megabytes=16.0,
        title="Rust source code of the standard library",
        packages={
            released.RUST: lambda path: texts(
                path, "*/library/alloc/*.rs", "*/library/core/*.rs", "*/library/std/src/*.rs"
            )
        },
        content_license="MIT OR Apache-2.0",
    ),
    Corpus(
        name="lisp",
        megabytes=5.9,
        title="Common Lisp source code of Maxima",
        packages={released.MAXIMA: lambda path: texts(path, "*/src/*.lisp")},
        content_license="GPL-2.0-or-later",
    ),
    Corpus(
        name="metamath",
        megabytes=49.0,
        title="Formal proofs of Metamath",
        packages={released.METAMATH: lambda path: sections(texts(path, "*/databases/*.mm"))},
        content_license="CC0-1.0",
        cleaning="cut into documents of 20 kB at blank lines",
    ),
    Corpus(
        name="acl2",
        megabytes=35.0,
        title="Formal proofs of ACL2, in Lisp",
        packages={
            released.ACL2_BOOKS: lambda path: texts(
                path,
                "*/books/std/*.lisp",
                "*/books/rtl/rel11/*.lisp",
                "*/books/arithmetic*/*.lisp",
                "*/books/centaur/*.lisp",
                "*/books/data-structures/*.lisp",
            )
        },
        content_license="BSD-3-Clause, MIT, GPL and others, by book",
    ),
    Corpus(
        name="hol_light",
        megabytes=37.7,
        title="Formal proofs of HOL Light, in OCaml",
        packages={released.HOL_LIGHT: lambda path: sections(texts(path, "*/hol-light/*.ml"))},
        content_license="BSD-2-Clause",
        cleaning="cut into documents of 20 kB at blank lines",
    ),
)
