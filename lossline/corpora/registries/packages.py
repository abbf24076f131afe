"""Packages of registries, by name, version and hash.

The tools of each registry fetch one file, as the user has configured them. Its hash is checked
before any other step. Packages are never installed or imported.
"""

from __future__ import annotations

import enum
import hashlib
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lossline.corpora.registries import tools
from lossline.errors import UserError


class Registry(enum.Enum):
    """Kind of registry: it determines the tool that fetches and the form of a requirement."""

    PYPI = "PyPI"
    NPM = "npm"
    DEBIAN = "Debian"


@dataclass(frozen=True, kw_only=True)
class Package:
    """One file of a package registry.

    Attributes:
        name: name of the package.
        version: exact version.
        file: name of the file: wheel, source archive, npm tarball or Debian file.
        sha256: SHA-256 (hex) of that file.
        license: license in the metadata of the package.
        registry: registry that has the package.
    """

    name: str
    version: str
    file: str
    sha256: str
    license: str
    registry: Registry = Registry.PYPI

    @property
    def requirement(self) -> str:
        """Name and version in the form that the registry's tool accepts."""
        between = {Registry.PYPI: "==", Registry.NPM: "@", Registry.DEBIAN: "="}
        return f"{self.name}{between[self.registry]}{self.version}"


class PackageUnavailable(UserError):
    """A package cannot be fetched: its registry or its tool is missing, or lacks the version."""


def fetch(package: Package, downloads: Path) -> Path:
    """Return the package's file in ``downloads``; fetch it if it is missing.

    Raises:
        PackageUnavailable: the file cannot be fetched.
        UserError: the file has another hash.
    """
    path = downloads / package.file
    if path.is_file():
        _check_hash(path, package)
        return path
    downloads.mkdir(parents=True, exist_ok=True)
    print(f"fetching {package.requirement} ({package.file})", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=downloads, prefix=".fetching-") as folder:
        refusal = _download(package, Path(folder).resolve())
        fetched = Path(folder) / package.file
        if not fetched.is_file():
            raise PackageUnavailable(
                f"package {package.requirement} could not be fetched ({refusal}). Put "
                f"{package.file} (sha256 {package.sha256[:16]}…) into {downloads}, or configure "
                f"{_TOOLS[package.registry]} for a registry that has it."
            )
        _check_hash(fetched, package)
        fetched.replace(path)
    return path


_TOOLS = {Registry.PYPI: "pip", Registry.NPM: "npm", Registry.DEBIAN: "apt-get"}


def _download(package: Package, folder: Path) -> str:
    """Run the registry's tool in an empty folder and return its last error line."""
    if package.registry is Registry.NPM:
        return tools.npm_pack(package.requirement, folder)
    if package.registry is Registry.DEBIAN:
        return tools.apt_get_download(package.requirement, folder)
    wheel = package.file.endswith(".whl")
    hashed = f"{package.requirement} --hash=sha256:{package.sha256}"
    return tools.pip_download(hashed, folder, source_of="" if wheel else package.name)


def _check_hash(path: Path, package: Package) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != package.sha256:
        raise UserError(
            f"{path}: sha256 {found[:16]}… is not the {package.sha256[:16]}… of "
            f"{package.requirement}. Delete it and gather again."
        )
