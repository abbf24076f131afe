"""Detect the language of pages (package py3langid, extra [selection]).

py3langid was chosen over lingua by measurement (experiments/benchmarks/README.md): 4.5 MB instead
of 96, 12 times the pages per second; BSD-3-Clause, maintained, and it needs NumPy only.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable, Sequence

from lossline.errors import UserError
from lossline.installing import install_extra

UNKNOWN = "und"  # ISO 639-3: undetermined
_CHARACTERS = 2000  # of a page; more do not change the language
# Languages found, by the hash of the text: the language filter and the report read the same pages.
_known: dict[bytes, str] = {}
_MOST_KNOWN = 100_000


def detector_is_installed() -> bool:
    """Return whether ``languages`` can be called."""
    return importlib.util.find_spec("py3langid") is not None


def languages(texts: Sequence[str]) -> list[str]:
    """Return the language of each text, an ISO 639 code; "und" for a text without letters.

    The detector was made for natural language: source code is most often "en".

    Raises:
        UserError: py3langid is not installed.
    """
    try:
        import py3langid
    except ImportError as error:
        raise UserError(
            f"language: the package py3langid is missing; {install_extra('selection')}."
        ) from error
    return [_language(text[:_CHARACTERS], py3langid.classify) for text in texts]


def _language(start: str, classify: Callable[[str], tuple[str, float]]) -> str:
    """Return the language of the start of a page, which is detected once in a process."""
    key = hashlib.blake2b(start.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = classify(start)[0] if any(map(str.isalpha, start)) else UNKNOWN
    return _known[key]
