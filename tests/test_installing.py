"""No text tells users to install "lossline" from the package index, which is another project."""

import importlib
import re
import subprocess
import sys

import pytest

from lossline import installing
from lossline.errors import UserError

NAME = "loss" + "line"  # in two parts, so that this file does not match its own search
PUBLISHED = "https://github.com/someone/project"

# A requirement with an extra, "pip install" before the bare name, or a line of a requirements file.
OLD_FORMS = re.compile(
    rf"\b{NAME}\["
    r"|\b(?:pip3?|uv|pipx|conda) (?:install|add|download)\b(?:(?!import)[^;|`]){0,80}?[ '\"\\]"
    rf"{NAME}(?![-\w./:])"
    rf"|(?m:^{NAME} *(?:[=<>~!@]=?[^=]|$))"
)


def old_forms(text: str) -> set[str]:
    """Return commands that install the bare name, also across line ends and adjacent strings."""
    joined = re.sub(r"[\"']\s*\n\s*[fr]?[\"']", "", text)
    spaced = re.sub(r"(?<=[\w=-])\s*\\?\n\s*(?=\S)", " ", joined)
    return {match[0] for version in (text, joined, spaced) for match in OLD_FORMS.finditer(version)}


@pytest.mark.parametrize(
    "text",
    [
        f"pip install {NAME}",
        f"%pip install --quiet {NAME}\n",
        f"python -m pip install -U '{NAME}'",
        f"uv pip install {NAME}==0.2.0",
        f"needs `pip install {NAME}[data]`",
        f'"compiling needs pip install "\n        f"\'{NAME}[tpu]\', or"',
        f'"a wheel: pip install "\n    "{NAME}, or"',
        f"run pip install\n{NAME} first",
        f"numpy\n{NAME}>=0.1\n",
        f"numpy\n{NAME}\n",
    ],
)
def test_search_finds_forbidden_install_commands(text):
    assert old_forms(text)


@pytest.mark.parametrize(
    "text",
    [
        f"pip install -e '.[data]' && python -m {NAME}.train",
        f"pip install '{NAME}-jax[data]'",
        f"pip install torch\nimport {NAME}",
        f"from {NAME} import tables",
        f"{NAME} trains models",
    ],
)
def test_search_ignores_allowed_text(text):
    assert not old_forms(text)


def test_no_file_contains_a_forbidden_install_command(repository):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("no git checkout: the files of the tree are unknown")
    paths = [repository / name for name in listed.stdout.decode().split("\0") if name]
    assert len(paths) > 100
    found = {}
    for path in paths:
        if path.is_file() and (forms := old_forms(path.read_text("utf-8", errors="replace"))):
            found[str(path.relative_to(repository))] = forms
    assert not found


def test_distribution_has_its_own_name(repository):
    asked = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout.split()[-1] == installing.DISTRIBUTION != NAME


def test_install_message_before_and_after_publication(monkeypatch):
    assert installing.install_extra("tpu") == (
        "install the [tpu] extra: `pip install -e '.[tpu]'` in the checkout"
    )
    monkeypatch.setattr(installing, "REPOSITORY", PUBLISHED)
    assert installing.install_extra("tpu") == (
        f"install the [tpu] extra: `pip install '{NAME}-jax[tpu] @ git+{PUBLISHED}'`"
    )


@pytest.mark.parametrize(
    ("package", "module", "call", "extra"),
    [
        ("sentencepiece", "vocabularies.sentencepiece", lambda m: m._load(b"", "x"), "data"),
        ("sentencepiece", "vocabularies.training",
         lambda m: m.train([], m.Algorithm.UNIGRAM, 300, name="x"), "data"),
        ("tiktoken", "vocabularies.tiktoken", lambda m: m.TiktokenVocabulary(None), "data"),
        ("seqio", "stores.prepare_all", lambda m: m._import_seqio_tasks(), "data"),
        ("lm_eval.api.model", "evaluation.harness",
         lambda m: m.harness_model("run", vocabulary="bytes"), "harness"),
    ],
)  # fmt: skip
def test_missing_package_error_names_the_extra(monkeypatch, package, module, call, extra):
    found = importlib.import_module(f"{NAME}.{module}")
    monkeypatch.delitem(sys.modules, f"{NAME}.corpora.seqio_tasks", raising=False)
    monkeypatch.delattr(f"{NAME}.corpora.seqio_tasks", raising=False)  # set once imported
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as stop:
        call(found)
    assert installing.install_extra(extra) in str(stop.value)
