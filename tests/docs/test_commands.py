"""Every command of the documentation is run here, or is marked with what it needs and resolves."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

from docs.shell_blocks import PAGES, REPOSITORY, Block, fenced, shell_blocks
from lossline.cli.configuration import _parse_command_line, build_options

BLOCKS = [block for page in PAGES for block in shell_blocks(page)]
MARKED = [block for block in BLOCKS if block.needs]
PAGES_TO_RUN = [page for page in PAGES if any(not block.needs for block in shell_blocks(page))]
SHELLS = ("bash", "shell", "console", "zsh", "shellsession")
# Launcher -> words before the verb.
LAUNCHERS = {
    "experiments/launchers/gpu.sh": 1,
    "experiments/launchers/slurm.sh": 1,
    "experiments/launchers/tpu_pod.sh": 3,
    "experiments/launchers/tpu_queue.sh": 4,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what a checkout has."""
    for name in ("gin_configs", "experiments"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_files(block: Block, folder: Path) -> None:
    for name, text in block.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES_TO_RUN, ids=lambda page: page.stem)
def test_unmarked_commands_run(page, folder, monkeypatch, capsys) -> None:
    for block in shell_blocks(page):
        if block.needs:
            continue
        write_files(block, folder)
        for words in block.commands:
            run(words, f"{block.name}: {' '.join(words)}", monkeypatch)


def run(words: list[str], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if words[:2] == ["mkdir", "-p"]:
        return  # `write_files` makes folders
    assert words[:2] == ["python", "-m"] and words[2].startswith("lossline."), (
        f"{where}: no test runs this; let the block open with '# needs: …'"
    )
    monkeypatch.setattr(sys, "argv", [words[2], *words[3:]])
    try:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert not end.code, f"{where}: ended with {end.code}"


@pytest.mark.parametrize("block", MARKED, ids=lambda block: block.name)
def test_marked_commands_resolve(block: Block, folder: Path) -> None:
    for other in shell_blocks(block.page):
        write_files(other, folder)
    for words in block.commands:
        resolve(words, f"{block.name}: {' '.join(words)}")


def resolve(words: list[str], where: str) -> None:
    """Check what can be checked without running: files, flags, bindings, targets, extras."""
    if (verb := verb_of(words)) is not None:
        resolve_verb(*verb)
    elif words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        named = [word for word in words[1:] if "=" not in word]
        assert named and set(named) <= set(targets), where
    elif words[:3] == ["pip", "install", "-e"]:
        extra = re.fullmatch(r"\.\[(\w+)\]", words[3])
        assert extra and f'"{extra[1]}": ' in (REPOSITORY / "setup.py").read_text(), where
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((REPOSITORY / word).exists() for word in words[3:] if word[0] != "-"), where
    elif words[0] == "python" and words[1].endswith(".py"):
        source = script_text(REPOSITORY / words[1])
        flags = [word.partition("=")[0] for word in words[2:] if word.startswith("--")]
        assert all(f'"{flag}"' in source for flag in flags), where
    else:
        assert words[0].startswith("experiments/") and (REPOSITORY / words[0]).is_file(), where


def script_text(script: Path) -> str:
    """The text of a script and of the modules beside it that it imports: one may read its flags."""
    text = script.read_text(encoding="utf-8")
    beside = re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE)
    files = [script.with_name(f"{name}.py") for name in beside]
    return text + "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())


def verb_of(words: list[str]) -> tuple[str, list[str]] | None:
    """The verb of lossline that a command starts, and its arguments; None for other commands."""
    for place, word in enumerate(words):
        if word in LAUNCHERS:  # maybe after `sbatch` and its options
            verb, *arguments = words[place + LAUNCHERS[word] :]
            return verb, arguments
        if word.startswith("lossline.") and words[place - 1] == "-m":
            return word.removeprefix("lossline."), words[place + 1 :]
    return None


def resolve_verb(verb: str, arguments: list[str]) -> None:
    module = importlib.import_module(f"lossline.{verb}")
    load, flags = module.load, getattr(module, "FLAGS", {})
    if hasattr(module, "separated"):  # what belongs to another program is not checked
        arguments, _ = module.separated(arguments)
    arguments = [*getattr(module, "DEFAULTS", ()), *arguments]
    if hasattr(module, "form"):  # a switch makes another verb of it
        _, load, flags, arguments = module.form(arguments)
    gin_files, bindings = _parse_command_line(verb, "", flags, arguments, load)
    build_options(verb, load(), gin_files=gin_files, bindings=bindings)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_imports_in_python_blocks_resolve(page: Path) -> None:
    for text in fenced(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lossline"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


@pytest.mark.parametrize(
    "name",
    ["guides/own_law", "guides/loss_table", "guides/score_table", "reference/page_selection"],
)
def test_self_contained_python_runs(name: str, folder: Path) -> None:
    for text in fenced(REPOSITORY / "docs" / f"{name}.md", "python"):
        exec(compile(text, name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_stands_outside_the_blocks_that_are_tested(page: Path) -> None:
    """Blocks of another language, in a list or by indentation are not read by `shell_blocks`."""
    fences = re.findall(r"^([ >]*)```(\w+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    hidden = [name for indent, name in fences if name in SHELLS or (indent and name == "sh")]
    assert not hidden, f"{page}: write commands as ```sh at the start of a line"
    rest = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert not re.search(r"^(?: {4}|\t)(?:\$ )?(?:python -m|make |pip )", rest, re.MULTILINE), page


def test_the_documentation_has_commands() -> None:
    assert len(BLOCKS) > 20 and PAGES_TO_RUN
    assert any(words for block in BLOCKS for words in block.commands)
