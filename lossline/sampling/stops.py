"""When a text ends: its stop strings, the end-of-document token, or the number of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from lossline.vocabularies import Vocabulary


class Text:
    """A text that grows token by token.

    Args:
        vocabulary: vocabulary of the tokens.
        tokens: largest number of tokens.
        stop: strings that end the text; they are not part of it.

    Attributes:
        ids: the tokens so far.
        ended: why the text has ended: "stop" (a stop string), "end" (the end-of-document token),
            "tokens" (their number); "" while it grows.
    """

    def __init__(self, vocabulary: Vocabulary, *, tokens: int, stop: Sequence[str]) -> None:
        self._vocabulary, self._tokens = vocabulary, tokens
        self._stop = [item.encode() for item in stop if item]
        self._longest = max(map(len, self._stop), default=0)
        self._bytes = bytearray()
        self.ids: list[int] = []
        self.ended = "" if tokens > 0 else "tokens"

    @property
    def text(self) -> str:
        """The text so far; half a character at its end becomes U+FFFD."""
        return self._bytes.decode("utf-8", errors="replace")

    def add(self, token: int) -> None:
        """Add a token, unless the text has ended."""
        if self.ended:
            return
        if token == self._vocabulary.eos_id:
            self.ended = "end"
            return
        self.ids.append(token)
        before = len(self._bytes)
        self._bytes += self._vocabulary.decode_bytes([token])
        # A stop string may have begun in earlier tokens.
        search_from = max(0, before - self._longest + 1)
        found = [at for item in self._stop if (at := self._bytes.find(item, search_from)) >= 0]
        if found:
            del self._bytes[min(found) :]
            self.ended = "stop"
        elif len(self.ids) == self._tokens:
            self.ended = "tokens"
