"""One writer of a folder in a bucket: a lock object that only one process can create.

The object is made on the condition that none exists (generation 0), and says who holds it. Its
holder writes it again every few seconds, on the condition that nobody else has. A lock that was not
written for ``LEFT_AFTER`` seconds, by the server's clock, is of a process that was killed, and the
next writer replaces it on the condition that it has not changed. Of several that try, one succeeds.

A holder whose lock was taken over, or that could not renew it in time, stops before its next write
(``confirm``): a process that slept through its own lock writes nothing over its successor's files.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lossline.buckets import objects
from lossline.errors import UserError

RENEW_EVERY = 15.0  # seconds
LEFT_AFTER = 120.0  # seconds without renewal after which a lock counts as left
_TRUSTED = 60.0  # seconds since a renewal during which the holder needs not ask
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Content of a lock object.

    Attributes:
        owner: name of this hold of the lock; no two are equal.
        process: process and host, for messages.
        machine: name of this start of the machine; "" if unknown.
        pid: number of the process on its machine.
        started: when the process started, in the units of its machine; 0 if unknown.
    """

    owner: str
    process: str
    machine: str
    pid: int
    started: int

    @classmethod
    def of_this_process(cls) -> Holder:
        """Return a new holder."""
        return cls(
            owner=uuid.uuid4().hex,
            process=f"{os.getpid()} on {socket.gethostname()}",
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
        )

    @classmethod
    def read(cls, content: bytes) -> Holder:
        """Return the holder that a lock object names; an unknown one if it is malformed."""
        try:
            tree = json.loads(content)
            return cls(**{name: tree[name] for name in cls.__dataclass_fields__})
        except (ValueError, KeyError, TypeError):
            return cls(owner="", process="unknown", machine="", pid=0, started=0)

    def bytes(self) -> bytes:
        """Return the content of the lock object."""
        return json.dumps(vars(self)).encode()

    def lives(self) -> bool | None:
        """Return whether the process lives, if it is one of this machine; None otherwise."""
        if not self.machine or self.machine != _machine():
            return None
        return self.started == _started(self.pid)


class Lease:
    """A lock that this process holds on a folder.

    Args:
        url: the lock object.
        generation: its generation.
        holder: its content.
        folders: what only the holder may write to.
    """

    def __init__(self, url: str, generation: int, holder: Holder, folders: tuple[str, ...]) -> None:
        self._url, self._generation, self._holder = url, generation, holder
        self._folders = tuple(f"{folder}/" for folder in folders)
        self._renewed = time.monotonic()
        self._lost = ""
        self._guard = threading.Lock()  # of the generation, between the thread and confirm()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lock {url}", daemon=True)

    def covers(self, url: str) -> bool:
        """Return whether only the holder of this lock may write an object."""
        return url.startswith(self._folders)

    def confirm(self) -> None:
        """Check that this process still holds the lock; ask the server if it was not sure lately.

        Raises:
            UserError: another process has taken the lock over, or the server does not answer.
        """
        if not self._lost and time.monotonic() - self._renewed > _TRUSTED:
            self._renew()
        if self._lost:
            raise UserError(
                f"{self._url}: this process was not heard of for {LEFT_AFTER:.0f} s, and "
                f"{self._lost} has taken its lock over. It stops here and writes nothing more."
            )

    def start(self) -> None:
        """Renew the lock from now on."""
        self._thread.start()

    def release(self) -> None:
        """Stop renewing and delete the lock object, unless it is another's by now."""
        self._end.set()
        self._thread.join()
        if self._lost:
            return
        try:
            objects.delete(self._url, if_generation=self._generation)
        except objects.Changed:
            found = objects.facts(self._url)  # perhaps a renewal whose answer was lost
            if found is not None and _holder(self._url, found.generation) == self._holder:
                objects.delete(self._url, if_generation=found.generation)

    def _keep(self) -> None:
        while not self._lost and not self._end.wait(RENEW_EVERY):
            try:
                self._renew()
            except (UserError, OSError):  # no answer: confirm() asks again before the next write
                continue

    def _renew(self) -> None:
        with self._guard:
            asked = time.monotonic()
            try:
                self._generation = objects.write(
                    self._url, self._holder.bytes(), if_generation=self._generation
                )
            except objects.Changed:
                if not self._is_still_ours():
                    return
            self._renewed = asked

    def _is_still_ours(self) -> bool:
        """Find out whose lock it is, after a write that the server refused.

        It may have made an earlier attempt of the same write, whose answer was lost.
        """
        found = objects.facts(self._url)
        if found is None:
            self._lost = "another process"
            return False
        holder = _holder(self._url, found.generation)
        if holder is None or holder.owner != self._holder.owner:
            self._lost = f"process {holder.process}" if holder else "another process"
            return False
        self._generation = found.generation
        return True


_held: set[Lease] = set()


def confirm(url: str) -> None:
    """Check the locks of this process whose folder an object is about to be written into.

    Raises:
        UserError: another process has taken a lock over.
    """
    for lease in tuple(_held):
        if lease.covers(url):
            lease.confirm()


@contextmanager
def held(
    url: str, folders: tuple[str, ...], refusal: Callable[[str], str], say: Say
) -> Iterator[None]:
    """Hold the lock object ``url`` while the block runs.

    If a lock of another machine is there, wait until it is renewed (its holder lives) or counts as
    left.

    Args:
        url: the lock object; deleted at the end.
        folders: what only the holder may write to.
        refusal: makes the error message from the holder ("12345 on host").
        say: is told what is waited for.

    Raises:
        UserError: another process holds the lock.
    """
    lease = Lease(url, *_taken(url, refusal, say), folders)
    lease.start()
    _held.add(lease)
    try:
        yield
    finally:
        _held.discard(lease)
        lease.release()


def is_held(url: str) -> bool:
    """Return whether a lock object exists that does not count as left."""
    found = objects.age(url)
    if found is None or found[1] >= LEFT_AFTER:
        return False
    holder = _holder(url, found[0].generation)
    return holder is None or holder.lives() is not False


def _taken(url: str, refusal: Callable[[str], str], say: Say) -> tuple[int, Holder]:
    """Take the lock; return the generation and content of its object."""
    ours = Holder.of_this_process()
    seen: int | None = None  # generation of another's lock when it was first seen
    while True:
        found = objects.age(url)
        if found is None:
            generation = _write(url, ours, 0)
        else:
            facts, age = found
            holder = _holder(url, facts.generation)
            if holder is None:  # renewed or deleted just now
                continue
            lives = holder.lives()
            if age < LEFT_AFTER and lives is not False:
                if lives or seen not in (None, facts.generation):
                    raise UserError(refusal(holder.process))
                if seen is None:
                    say(
                        f"{url}: locked by process {holder.process}, renewed {age:.0f} s ago; "
                        "waiting to see whether it lives"
                    )
                seen = facts.generation
                time.sleep(RENEW_EVERY / 15)
                continue
            generation = _write(url, ours, facts.generation)
        if generation is not None:
            return generation, ours
        seen = 0  # another was faster: it lives


def _write(url: str, holder: Holder, generation: int) -> int | None:
    """Write a lock object over ``generation``; return its new one, None if another was faster."""
    # Changed: by another, or by this call, if the answer to its first attempt was lost.
    with suppress(objects.Changed):
        objects.write(url, holder.bytes(), if_generation=generation)
    found = objects.facts(url)
    if found is None:
        return None
    there = _holder(url, found.generation)
    return found.generation if there is not None and there.owner == holder.owner else None


def _holder(url: str, generation: int) -> Holder | None:
    """Return the holder in one version of a lock object; None if that version is gone."""
    try:
        return Holder.read(objects.read(url, generation=generation))
    except FileNotFoundError:
        return None


def _machine() -> str:
    return _content("/proc/sys/kernel/random/boot_id") + _link("/proc/self/ns/pid")


def _started(pid: int) -> int:
    """Return when a process of this machine started; 0 if it is gone or a zombie, or unknown."""
    after_name = _content(f"/proc/{pid}/stat").rpartition(")")[2].split()
    gone = len(after_name) < 20 or after_name[0] in "ZX"
    return 0 if gone else int(after_name[19])


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
