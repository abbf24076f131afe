"""A storage emulator on loopback, and before it a proxy with preconditions and faults.

The emulator (gcp-storage-emulator) ignores ``ifGenerationMatch``; the offsets of a list, so that
TensorStore, told to replace one array, deletes all objects of the bucket; and ranges that count
from the end, with which TensorStore reads the index of a shard. It does not tell the generation of
what is read. The proxy does all four, one request at a time, and answers with the errors that a
test asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest


@dataclass(frozen=True)
class Request:
    """A request as the proxy sees it.

    Attributes:
        method: HTTP method.
        action: "read" (content), "stat", "list", "write", "delete", "copy" or "bucket".
        bucket: name of the bucket.
        name: object, or prefix of a list; of a copy, the target.
    """

    method: str
    action: str
    bucket: str
    name: str


Chooses = Callable[[Request], bool]


@dataclass
class Fault:
    """What happens to the requests that ``chooses`` picks.

    Attributes:
        kind: "refused" (``status``, nothing done), "late" (done, but the connection is closed
            without an answer), "closed" (nothing done, connection closed), "forgotten" (answered as
            if done, nothing stored), "done but 503" (done, answered with 503).
        chooses: picks requests.
        times: number of requests; then the fault is over.
        after: number of requests that pass before.
        status: HTTP status of "refused".
    """

    kind: str
    chooses: Chooses
    times: int = 1
    after: int = 0
    status: int = 503


@dataclass
class Emulator:
    """The running emulator.

    Attributes:
        url: address of the proxy.
        faults: faults to come, in order.
        seen: requests so far.
    """

    url: str
    faults: list[Fault] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)
    clock_ahead: float = 0.0

    def fail(self, kind: str, chooses: Chooses, **options: int) -> Fault:
        """Let requests fail from now on."""
        fault = Fault(kind, chooses, **options)
        self.faults.append(fault)
        return fault

    def make_bucket(self, name: str) -> str:
        """Make a bucket and return its URL."""
        _send(self.url, "POST", "/storage/v1/b", json.dumps({"name": name}).encode())
        return f"gs://{name}"

    def environment(self) -> dict[str, str]:
        """Return the variables that point TensorStore, gcsfs and etils at the emulator."""
        return {
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "STORAGE_EMULATOR_HOST": self.url,
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
            "EPATH_USE_TF": "false",
        }


@contextlib.contextmanager
def running_emulator() -> Iterator[Emulator]:
    """Run emulator and proxy while the block runs."""
    from gcp_storage_emulator.server import create_server

    for name in ("api", "gcp_storage_emulator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    emulator = create_server("127.0.0.1", 0, in_memory=True)
    emulator.start()
    behind = emulator._api._httpd.server_address[1]
    proxy = _Server(("127.0.0.1", 0), _Handler)
    port = proxy.server_address[1]
    proxy.behind = behind
    proxy.one_at_a_time = threading.Lock()
    proxy.emulator = Emulator(f"http://127.0.0.1:{port}")
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy.emulator
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
        emulator.stop()


def _send(address: str, method: str, path: str, body: bytes = b"") -> bytes:
    connection = http.client.HTTPConnection(urlsplit(address).netloc)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    content = connection.getresponse().read()
    connection.close()
    return content


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Say nothing: a killed process leaves broken connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _answer(self) -> None:
        server = self.server
        body = self._body()
        request = _request(self.command, self.path, body)
        with server.one_at_a_time:
            server.emulator.seen.append(request)
            fault = _fault(server.emulator.faults, request)
            kind = fault.kind if fault else ""
            if kind == "closed":
                self.close_connection = True
                return
            if kind == "refused":
                self._reply(fault.status, _error(fault.status))
                return
            if kind == "forgotten":
                facts = {"name": request.name, "bucket": request.bucket, "generation": "7"}
                self._reply(200, json.dumps(facts).encode())
                return
            refused = self._failed_precondition(request)
            status, headers, content = (
                (refused, {}, _error(refused)) if refused else self._forward(body)
            )
            if request.action == "list" and status == 200:
                content = _between_offsets(self.path, content)
            if request.action == "read":
                headers["X-Goog-Generation"] = self._generation(request)
            if (range := self.headers.get("Range", "")) and status == 200:
                status, content, more = _part(range, content)
                headers |= more
        if kind == "late":
            self.close_connection = True
            return
        if kind == "done but 503":
            self._reply(503, _error(503))
            return
        self._reply(status, content, headers)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _answer

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        skipped = ("transfer-encoding", "content-length", "connection", "range")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in skipped}
        headers["Content-Length"] = str(len(body))
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), content

    def _failed_precondition(self, request: Request) -> int:
        """Return 412, 404 or 304 if the object is not in the asked-for version; 0 if it is."""
        asked = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
        wanted = {"generation", "ifGenerationMatch", "ifGenerationNotMatch"} & asked.keys()
        if not wanted or request.action not in ("read", "stat", "write", "delete", "copy"):
            return 0
        there = self._generation(request)
        if "generation" in asked and asked["generation"] != there:
            return 404
        if asked.get("ifGenerationMatch", there) != there:
            return 412
        if asked.get("ifGenerationNotMatch") == there and there != "0":
            return 304
        return 0

    def _generation(self, request: Request) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        name = quote(request.name, safe="")
        connection.request("GET", f"/storage/v1/b/{request.bucket}/o/{name}")
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return json.loads(content)["generation"] if answer.status == 200 else "0"

    def _reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        ahead = self.server.emulator.clock_ahead
        self.send_header("Date", self.date_time_string(time.time() + ahead))
        for name, value in (headers or {}).items():
            if name.lower() not in ("content-length", "date", "server", "connection"):
                self.send_header(name, value)
        empty = status in (204, 304)
        if not empty:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not empty:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _request(method: str, path: str, body: bytes) -> Request:
    parts = urlsplit(path)
    asked = {k: v[0] for k, v in parse_qs(parts.query).items()}
    where = parts.path.partition("/b/")[2]
    bucket, _, rest = where.partition("/o")
    name = unquote(rest.removeprefix("/"))
    if parts.path.startswith("/upload/"):
        name = asked.get("name", "")
        if not name and asked.get("uploadType") == "multipart":
            name = json.loads(body.partition(b"\r\n\r\n" if b"\r\n" in body[:99] else b"\n\n")[2]
                              .split(b"\n--")[0])["name"]  # fmt: skip
        return Request(method, "write", bucket, name)
    if "/o" not in where:
        return Request(method, "bucket", bucket, "")
    if "/rewriteTo/b/" in rest or "/copyTo/b/" in rest:
        target = rest.partition("To/b/")[2]
        to_bucket, _, to_name = target.partition("/o/")
        return Request(method, "copy", to_bucket, unquote(to_name))
    if method == "DELETE":
        return Request(method, "delete", bucket, name)
    if not name:
        return Request(method, "list", bucket, asked.get("prefix", ""))
    media = asked.get("alt") == "media" or parts.path.startswith("/download/")
    return Request(method, "read" if media else "stat", bucket, name)


def _part(range: str, content: bytes) -> tuple[int, bytes, dict[str, str]]:
    """Return status, content and headers of an answer with a part of the content."""
    first, _, last = range.removeprefix("bytes=").partition("-")
    size = len(content)
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= size:
        return 416, b"", {"Content-Range": f"bytes */{size}"}
    return 206, content[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{size}"}


def _between_offsets(path: str, content: bytes) -> bytes:
    """Return a list of objects without those outside of startOffset and endOffset."""
    asked = {k: v[0] for k, v in parse_qs(urlsplit(path).query).items()}
    first, end = asked.get("startOffset", ""), asked.get("endOffset", chr(0x10FFFF))
    page = json.loads(content)
    page["items"] = [item for item in page.get("items", ()) if first <= item["name"] < end]
    return json.dumps(page).encode()


def _fault(faults: list[Fault], request: Request) -> Fault | None:
    for fault in faults:
        if not fault.times or not fault.chooses(request):
            continue
        if fault.after:
            fault.after -= 1
            continue
        fault.times -= 1
        return fault
    return None


def _error(status: int) -> bytes:
    return json.dumps({"error": {"code": status, "message": f"made by a test: {status}"}}).encode()


# --- fixtures; a conftest.py imports them ------------------------------------------------------

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def running() -> Iterator[Emulator]:
    with running_emulator() as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """The emulator without faults; libraries are pointed at it, and repeat requests at once."""
    for name, value in running.environment().items():
        monkeypatch.setenv(name, value)

    async def sleep(_: float) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr("gcsfs.retry.asyncio", SimpleNamespace(sleep=sleep))
    running.faults.clear()
    running.seen.clear()
    yield running
    running.faults.clear()
    running.clock_ahead = 0.0


@pytest.fixture
def bucket(emulator: Emulator) -> str:
    """URL of a new bucket."""
    return emulator.make_bucket(f"bucket-{next(_NUMBERS)}")


@pytest.fixture
def quick_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of seconds instead of minutes."""
    from lossline.buckets import lease

    monkeypatch.setattr(lease, "RENEW_EVERY", 0.3)
    monkeypatch.setattr(lease, "LEFT_AFTER", 2.0)
    monkeypatch.setattr(lease, "_TRUSTED", 0.5)
