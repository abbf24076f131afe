"""Text that UTF-8 can hold. A Python string can hold more: halves of surrogate pairs.

JSON brings them in as ``"\\ud83d"`` without its second half, and ``surrogateescape`` as stand-ins
of bytes that are not UTF-8.
"""

from __future__ import annotations

from lossline.errors import UserError


def fault(text: str) -> str:
    """The first character that UTF-8 cannot hold, in words; empty where it holds all of them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        return f"lone surrogate U+{code:04X} at character {error.start + 1}"
    return ""


def require(text: str, where: str) -> None:
    """Raises ``UserError`` that begins with ``where`` unless UTF-8 can hold the text."""
    found = fault(text)
    if found:
        raise UserError(f"{where}: {found}, which is not UTF-8; repair the text or leave it out")
