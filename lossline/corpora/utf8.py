"""Find characters that UTF-8 cannot encode: lone surrogates.

A Python string can contain half of a surrogate pair. Such halves come from JSON (``"\\ud83d"``
without its second half) and from ``surrogateescape``, which stores invalid bytes as surrogates.
"""

from __future__ import annotations

from lossline.errors import UserError


def fault(text: str) -> str:
    """Return a description of the first character that UTF-8 cannot encode; "" if none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return f"lone surrogate U+{code:04X} at character {error.start + 1}"
    return ""


def require(text: str, where: str) -> None:
    """Check that UTF-8 can encode a text.

    Args:
        text: the text to check.
        where: position of the text; the error message starts with it.

    Raises:
        UserError: the text contains a lone surrogate.
    """
    found = fault(text)
    if found:
        raise UserError(f"{where}: {found}, which is not UTF-8. Fix or remove the text.")
