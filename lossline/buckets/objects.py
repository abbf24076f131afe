"""Read, write, list and delete whole objects of Google Cloud Storage.

gcsfs signs, sends and repeats the requests; no listing is cached, because other processes, Orbax
and TensorStore write into the same folders. An object appears whole when its upload ends, and a
condition on its generation makes a write or a delete exclusive. Every failure is one line: "does
not exist" is said only if the server said so, never because it did not answer.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

from lossline.errors import UserError
from lossline.installing import install_extra

SCHEME = "gs://"
_SECONDS_WITHOUT_AN_ANSWER = 60.0
_ONE_REQUEST = 8 * 2**20  # bytes; larger content is sent in parts
_AT_ONCE = 16  # requests for many objects
Result = TypeVar("Result")


class Changed(Exception):
    """Raised when an object does not have the generation that a write or delete was bound to."""


@dataclass(frozen=True, kw_only=True)
class ObjectFacts:
    """What the server knows about an object.

    Attributes:
        name: name in the bucket, with slashes.
        size: bytes.
        generation: number of this version of the object.
        crc32c: checksum of the content, base64.
        updated: when this version was written, in seconds, by the server's clock.
    """

    name: str
    size: int
    generation: int
    crc32c: str
    updated: float


@dataclass(frozen=True)
class Listing:
    """The objects below a prefix, and the names of the folders next to them."""

    objects: list[ObjectFacts]
    folders: list[str]


@functools.cache
def file_system() -> Any:
    """Return gcsfs's file system, the same for an emulator and for Google.

    Orbax reaches it through etils.epath, which would take TensorFlow if that is installed.

    Raises:
        UserError: gcsfs is not installed.
    """
    os.environ.setdefault("EPATH_USE_TF", "false")
    # Otherwise, gcsfs asks every bucket for its layout through another client first.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import aiohttp
        import fsspec.config
        from etils.epath import gpath
        from gcsfs.core import GCSFileSystem
    except ModuleNotFoundError as error:
        raise UserError(
            f"paths at gs:// need the package {error.name}; {install_extra('buckets')}."
        ) from None
    if "GCSFS_DEBUG" not in os.environ:  # it logs the traceback of errors that it also raises
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    for name in GCSFileSystem.protocol:  # for etils.epath, which makes its own
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    with contextlib.suppress(AttributeError):  # a local path may have asked before
        gpath._is_tf_installed.cache_clear()
        gpath._is_tf_installed()  # and remembers the answer, whatever becomes of the environment
    # It logs the traceback of every refused request; the error says the same in one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    waits = aiohttp.ClientTimeout(
        total=None,
        sock_connect=_SECONDS_WITHOUT_AN_ANSWER,
        sock_read=_SECONDS_WITHOUT_AN_ANSWER,
    )
    return GCSFileSystem(use_listings_cache=False, requests_timeout=waits)


def split(url: str) -> tuple[str, str]:
    """Return the bucket and the name of the object of ``gs://bucket/name``."""
    bucket, _, name = url.removeprefix(SCHEME).partition("/")
    return bucket, name


def facts(url: str) -> ObjectFacts | None:
    """Return what the server knows about an object; None if it does not exist."""
    return _facts_and_time(url)[0]


def age(url: str) -> tuple[ObjectFacts, float] | None:
    """Return an object and the seconds since its last write, both by the server's clock."""
    found, now = _facts_and_time(url)
    return None if found is None else (found, now - found.updated)


def _facts_and_time(url: str) -> tuple[ObjectFacts | None, float]:
    bucket, name = split(url)
    if not name:
        return None, time.time()
    try:
        headers, content = _call(bucket, "GET", "b/{}/o/{}", bucket, name)
    except FileNotFoundError:
        return None, time.time()
    now = parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
    return _object_facts(json.loads(content)), now


def read(url: str, *, generation: int | None = None, part: tuple[int, int] | None = None) -> bytes:
    """Return the content of an object.

    Args:
        url: the object.
        generation: version to read; None: the newest.
        part: first byte and end of the bytes to read; None: all.

    Raises:
        FileNotFoundError: the object does not exist, or no longer in this version.
    """
    bucket, name = split(url)
    which: dict[str, Any] = {} if generation is None else {"generation": generation}
    if part is not None:
        which["headers"] = {"Range": f"bytes={part[0]}-{part[1] - 1}"}
    try:
        _, content = _call(bucket, "GET", "b/{}/o/{}", bucket, name, alt="media", **which)
    except FileNotFoundError:
        raise FileNotFoundError(2, os.strerror(2), url) from None
    return bytes(content)


def write(url: str, content: bytes, *, if_generation: int | None = None) -> int:
    """Write an object whole and return its generation; readers see it only when it is complete.

    Args:
        url: the object.
        content: the content.
        if_generation: write only if the object has this generation; 0: only if it does not exist.
            None: write whatever is there.

    Raises:
        Changed: the object has another generation. After an interrupted connection it may be the
            one that this call has written: compare the content.
    """
    bucket, name = split(url)
    if if_generation is None and len(content) > _ONE_REQUEST:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            return upload(file.name, url)
    condition = {} if if_generation is None else {"ifGenerationMatch": if_generation}
    headers = {"Content-Type": "application/octet-stream"}
    where = {"uploadType": "media", "name": name}
    try:
        _, answer = _call(
            bucket, "POST", _upload_address(bucket), data=content, headers=headers, **where,
            **condition,
        )  # fmt: skip
    except FileExistsError:  # gcsfs's name for "precondition failed"
        raise Changed(url) from None
    except FileNotFoundError:
        raise _no_bucket(bucket) from None
    told = json.loads(answer)
    if told.get("md5Hash") not in (None, base64.b64encode(hashlib.md5(content).digest()).decode()):
        raise OSError(f"{url}: the server received other bytes than were sent")
    return int(told["generation"])


def upload(file: str, url: str) -> int:
    """Write an object from a local file, however large; it appears when the upload ends."""
    bucket, _ = split(url)
    size = os.path.getsize(file)
    if size <= _ONE_REQUEST:
        with open(file, "rb") as content:
            return write(url, content.read())
    try:
        _asked(bucket, lambda: file_system().put_file(file, url))
    except FileNotFoundError:
        raise _no_bucket(bucket) from None
    there = facts(url)
    if there is None or there.size != size:
        raise OSError(f"{url}: the server received other bytes than were sent")
    return there.generation


def delete(url: str, *, if_generation: int | None = None) -> bool:
    """Delete an object; return whether it existed.

    Raises:
        Changed: the object has another generation than ``if_generation``.
    """
    bucket, name = split(url)
    condition = {} if if_generation is None else {"ifGenerationMatch": if_generation}
    try:
        _call(bucket, "DELETE", "b/{}/o/{}", bucket, name, **condition)
    except FileNotFoundError:
        return False
    except FileExistsError:
        raise Changed(url) from None
    return True


def copy(source: str, target: str) -> None:
    """Copy an object inside the storage, without download.

    Raises:
        FileNotFoundError: the source does not exist.
    """
    (bucket, name), (to_bucket, to_name) = split(source), split(target)
    names = (bucket, name, to_bucket, to_name)
    token: dict[str, str] = {}
    while True:  # a large object between places takes several calls
        _, answer = _call(bucket, "POST", "b/{}/o/{}/rewriteTo/b/{}/o/{}", *names, **token)
        told = json.loads(answer)
        if told.get("done", True):
            return
        token = {"rewriteToken": told["rewriteToken"]}


def objects(url: str) -> list[ObjectFacts]:
    """Return all objects below the folder ``url``, in order of their names."""
    return [item for page in _pages(url, delimiter=None) for item in page.objects]


def children(url: str) -> Listing:
    """Return the objects and folders directly in the folder ``url``."""
    found = list(_pages(url, delimiter="/"))
    return Listing(
        [item for page in found for item in page.objects],
        [folder for page in found for folder in page.folders],
    )


def is_folder(url: str) -> bool:
    """Return whether any object lies below ``url``."""
    page = next(_pages(url, delimiter=None, limit=1))
    return bool(page.objects)


def delete_all(urls: Iterable[str]) -> None:
    """Delete objects, several at once; absent ones are skipped."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(delete, urls))


def _pages(url: str, *, delimiter: str | None, limit: int | None = None) -> Iterator[Listing]:
    bucket, name = split(url)
    prefix = f"{name.rstrip('/')}/" if name else ""
    asked: dict[str, Any] = {"prefix": prefix, "fields": _FIELDS}
    asked |= {} if delimiter is None else {"delimiter": delimiter}
    asked |= {} if limit is None else {"maxResults": limit}
    while True:
        try:
            _, answer = _call(bucket, "GET", "b/{}/o", bucket, **asked)
        except FileNotFoundError:
            raise _no_bucket(bucket) from None
        page = json.loads(answer)
        items = (_object_facts(item) for item in page.get("items", ()))
        folders = [name.removesuffix("/") for name in page.get("prefixes", ())]
        # An object whose name ends in a slash is a folder that a browser has made.
        yield Listing([item for item in items if not item.name.endswith("/")], folders)
        if "nextPageToken" not in page:
            return
        asked["pageToken"] = page["nextPageToken"]


_FIELDS = "items(name,size,generation,crc32c,updated),prefixes,nextPageToken"


def _object_facts(told: dict[str, Any]) -> ObjectFacts:
    return ObjectFacts(
        name=told["name"],
        size=int(told.get("size", 0)),
        generation=int(told["generation"]),
        crc32c=told.get("crc32c") or "",
        updated=datetime.fromisoformat(told["updated"]).timestamp(),
    )


def _upload_address(bucket: str) -> str:
    place = file_system().base.removesuffix("storage/v1/")
    return f"{place}upload/storage/v1/b/{quote(bucket, safe='')}/o"


def _call(bucket: str, method: str, path: str, *names: str, **options: Any) -> tuple[Any, bytes]:
    """Send one request, repeated by gcsfs if the server fails; return headers and content."""
    answer: tuple[Any, bytes] = _asked(
        bucket, lambda: file_system().call(method, path, *names, **options)
    )
    return answer


def _asked(bucket: str, ask: Callable[[], Result]) -> Result:
    file_system()  # says which package is missing
    import aiohttp
    import google.auth.exceptions
    import requests.exceptions
    from gcsfs.retry import HttpError

    try:
        return ask()
    except (FileNotFoundError, FileExistsError, UserError):
        raise
    except HttpError as error:
        if str(error.code) == "401":
            raise _no_credentials(bucket, error) from error
        raise _no_answer(bucket, error) from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise _no_credentials(bucket, error) from error
    except (aiohttp.ClientError, requests.exceptions.RequestException, TimeoutError) as error:
        raise _no_answer(bucket, error) from error
    except OSError as error:
        if not str(error).startswith("Forbidden"):
            raise
        raise _no_permission(bucket, error) from error


def refusal(error: Exception) -> str | None:
    """Return the message for an error of TensorStore or Orbax about a bucket; None for others.

    They write there themselves, and tell bucket and reason only in the text.
    """
    text = " ".join([str(error), *getattr(error, "__notes__", ())])
    where = re.search(r"gs://([^/\s\"']+)|/b/([^/\s\"'?]+)/o", text)
    if where is None:
        return None
    bucket = where[1] or where[2]
    if "PERMISSION_DENIED" in text or text.startswith("Forbidden"):
        return str(_no_permission(bucket, error))
    if "UNAUTHENTICATED" in text:
        return str(_no_credentials(bucket, error))
    if re.search(r"UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|http_response_code='(429|5\d\d)'", text):
        return str(_no_answer(bucket, error))
    return None


def _no_permission(bucket: str, error: Exception) -> UserError:
    return UserError(
        f"{SCHEME}{bucket}: no permission ({_last_line(error)}). Give the account that runs "
        "this the role Storage Object User (roles/storage.objectUser) on the bucket."
    )


def _no_bucket(bucket: str) -> UserError:
    return UserError(
        f"{SCHEME}{bucket}: no such bucket. Check the name, or make it: "
        f"`gcloud storage buckets create {SCHEME}{bucket}`."
    )


def _no_credentials(bucket: str, error: Exception) -> UserError:
    return UserError(
        f"{SCHEME}{bucket}: no valid credentials ({_last_line(error)}). Run `gcloud auth "
        "application-default login`, or give the machine a service account."
    )


def _no_answer(bucket: str, error: Exception) -> UserError:
    return UserError(
        f"{SCHEME}{bucket}: the storage does not answer ({_last_line(error)}), repeated requests "
        "included. Run the same command again later; nothing is half written."
    )


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:200] if lines else type(error).__name__
