"""A file in a bucket that grows: what was added is uploaded now and then, and on demand."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor

from lossline.buckets.path import BucketPath

_SECONDS = 30.0  # between uploads of a small file
_SECONDS_PER_BYTE = 30.0 / 2**20  # a larger one is sent less often: all of it is sent again


class GrowingObject:
    """An object that is written again, whole, with all that was added since.

    A bucket appends nothing. A kill loses what was added after the last ``sync``.

    Args:
        path: the object; its content is kept.
    """

    def __init__(self, path: BucketPath) -> None:
        self._path = path
        try:
            self._content = bytearray(path.read_bytes())
        except FileNotFoundError:
            self._content = bytearray()
        self._sent = len(self._content)
        self._sent_at = time.monotonic()
        self._sender = ThreadPoolExecutor(1, thread_name_prefix=f"upload {path.name}")
        self._sending: Future[int] | None = None

    def write(self, content: bytes) -> int:
        """Add ``content``."""
        self._content += content
        return len(content)

    def flush(self) -> None:
        """Start an upload in the background if the last one was some time ago."""
        pause = max(_SECONDS, _SECONDS_PER_BYTE * len(self._content))
        idle = self._sending is None or self._sending.done()
        if idle and time.monotonic() - self._sent_at >= pause:
            self._send()

    def sync(self) -> None:
        """Upload all that was added; raise if that fails."""
        if self._sending is not None:
            try:
                self._sent = self._sending.result()
            except Exception:
                self._sent = -1  # sent again now, and that error is raised
        if self._sent != len(self._content):
            self._send()
            assert self._sending is not None
            self._sent = self._sending.result()

    def close(self) -> None:
        """Upload all that was added, and end."""
        try:
            self.sync()
        finally:
            self._sender.shutdown()

    def _send(self) -> None:
        self._sent_at = time.monotonic()
        self._sending = self._sender.submit(self._path.write_bytes, bytes(self._content))
