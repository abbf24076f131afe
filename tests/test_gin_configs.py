"""Every shipped gin file starts with a command that uses it, and that command resolves."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from lossline.cli.configuration import _parse_command_line, build_options

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = sorted((REPOSITORY / "gin_configs").rglob("*.gin"))


def command_of(path: Path) -> list[str]:
    """Return the words of the command in the opening comment; a backslash continues a line."""
    header = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line.removeprefix("#").strip())
    text = re.sub(r"\\\s*\n\s*", " ", "\n".join(header))
    found = re.search(r"python -m lossline\.\w+ .*", text)
    assert found, f"{path}: the opening comment contains no `python -m lossline.VERB …`"
    return shlex.split(found[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_command_of_a_gin_file_resolves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = command_of(path)
    verb = words[2].removeprefix("lossline.")
    module = importlib.import_module(f"lossline.{verb}")
    load, flags, arguments = module.load, getattr(module, "FLAGS", {}), words[3:]
    if hasattr(module, "form"):  # a switch makes another verb of it
        _, load, flags, arguments = module.form(arguments)
    gin_files, bindings = _parse_command_line(verb, "", flags, arguments, load)
    named = {Path(file).resolve() for file in gin_files}
    assert path in named, f"{path}: its own command does not name it"
    build_options(verb, load(), gin_files=gin_files, bindings=bindings)


def test_gin_files_are_found() -> None:
    assert FILES
