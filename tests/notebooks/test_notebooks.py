"""The notebooks run from top to bottom, and skip sections without data."""

import os
import runpy
import shutil
import subprocess
from pathlib import Path

import nbclient
import nbformat
import pandas as pd
import pytest

from lossline import installing, tables
from lossline.choices.choosing import choose
from lossline.choices.correlation_method import PerplexityCorrelations
from lossline.choices.files import save_choices
from lossline.choices.options import ChooseOptions
from lossline.choices.targets import Target
from lossline.corpora.pools import Pool
from lossline.pages.methods import Dsir
from lossline.vocabularies import Bytes
from tests import planted_comparison, planted_pool, planted_token_selection
from tests.reporting import planted


@pytest.fixture
def with_install_cells(repository):
    """Function of the script ``notebooks/install_cells.py``."""
    return runpy.run_path(str(repository / "notebooks" / "install_cells.py"))["with_install_cells"]


def execute(path: Path, folder: Path, **environment: str) -> nbformat.NotebookNode:
    return run(nbformat.read(path, as_version=4), folder, **environment)


def run(notebook: nbformat.NotebookNode, folder: Path, **environment: str) -> nbformat.NotebookNode:
    """Execute a notebook in a folder."""
    nbformat.validate(notebook)
    settings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **environment,
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        nbclient.NotebookClient(
            notebook,
            timeout=240,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        ).execute()
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
    return notebook


@pytest.fixture
def run_in_colab(repository, with_install_cells, tmp_path, monkeypatch):
    """Function that executes a notebook in an empty folder, as if lossline were published.

    Its data cell clones a repository that holds the study's gin file, and runs a stand-in of Python
    that takes only the command of that study, which takes minutes, and copies what it would make.
    ``tests/studies`` runs the small studies themselves.
    """

    def in_colab(name: str, made: Path) -> nbformat.NotebookNode:
        study = f"{name}_small"
        gin_file = f"gin_configs/studies/{study}.gin"
        published = tmp_path / "published"
        (published / gin_file).parent.mkdir(parents=True)
        shutil.copy(repository / gin_file, published / gin_file)
        identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
        for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "Begin"]):
            subprocess.run(["git", *command], cwd=published, check=True)
        python = tmp_path / "python"
        python.write_text(
            f'#!/bin/sh\n[ "$*" = "-m lossline.study --gin_file={gin_file}" ] && [ -f {gin_file} ]'
            f" && mkdir -p runs && cp -r {made} runs/{study}\n"
        )
        python.chmod(0o755)
        monkeypatch.setattr(installing, "REPOSITORY", published.as_uri())
        for variable in ("LOSSLINE_SELECT", "LOSSLINE_LOSSES", "LOSSLINE_SETS"):
            monkeypatch.delenv(variable, raising=False)
        path = repository / "notebooks" / f"{name}.ipynb"
        text = with_install_cells(path.read_text("utf-8"), path.name)
        notebook = before(
            nbformat.reads(text, as_version=4), f"import sys\n\nsys.executable = {str(python)!r}"
        )
        empty = tmp_path / "empty"
        empty.mkdir()
        ran = run(notebook, empty)
        assert [item.name for item in empty.iterdir()] == ["checkout"]
        return ran

    return in_colab


def before(notebook: nbformat.NotebookNode, source: str) -> nbformat.NotebookNode:
    """Begin a notebook with a cell that makes the kernel what it is elsewhere."""
    notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
    return notebook


def pictures(notebook) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("name", ["quickstart", "published_sweeps", "selection", "token_selection"])
def test_notebooks_are_committed_without_outputs(repository, name):
    path = repository / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


def test_every_notebook_is_up_to_date_with_install_cells(repository, with_install_cells):
    paths = sorted((repository / "notebooks").glob("*.ipynb"))
    assert len(paths) == 4
    for path in paths:
        text = path.read_text("utf-8")
        assert with_install_cells(text, path.name) == text


@pytest.mark.parametrize(
    "name",
    ["quickstart.ipynb", "published_sweeps.ipynb", "selection.ipynb", "token_selection.ipynb"],
)
def test_install_cell_and_badge_follow_the_repository_address(
    repository, with_install_cells, name, monkeypatch
):
    text = (repository / "notebooks" / name).read_text("utf-8")
    monkeypatch.setattr(installing, "REPOSITORY", "")
    before = with_install_cells(text, name)
    assert "://" not in before and "pip install -e '.[data]'` in the checkout" in before
    address = "https://github.com/someone/project"
    monkeypatch.setattr(installing, "REPOSITORY", address)
    after = with_install_cells(text, name)
    assert with_install_cells(after, name) == after
    notebook = nbformat.reads(after, as_version=4)
    nbformat.validate(notebook)
    badge, code = notebook.cells[0], next(c for c in notebook.cells if c.cell_type == "code")
    colab = f"https://colab.research.google.com/github/someone/project/blob/main/notebooks/{name}"
    assert badge.cell_type == "markdown" and f"({colab})" in badge.source
    assert f"%pip install '{installing.DISTRIBUTION}[data] @ git+{address}'" in code.source
    monkeypatch.setattr(installing, "REPOSITORY", "https://elsewhere.example/project.git")
    elsewhere = with_install_cells(after, name)
    assert "colab.research" not in elsewhere  # Colab opens GitHub only
    assert "@ git+https://elsewhere.example/project.git'" in elsewhere
    monkeypatch.setattr(installing, "REPOSITORY", "")
    assert with_install_cells(after, name) == before


@pytest.mark.slow
def test_the_quickstart_notebook_runs_in_an_empty_folder(repository, tmp_path, monkeypatch):
    monkeypatch.delenv("LOSSLINE_RUNS", raising=False)
    notebook = execute(repository / "notebooks" / "quickstart.ipynb", tmp_path)
    text = printed(notebook)
    assert pictures(notebook) == 1 and "this is the example table" in text
    assert "converged" in text and "pretraining data moves the line" in text
    assert (tmp_path / "report" / "report.html").exists()
    assert [item.name for item in tmp_path.iterdir()] == ["report"]


def test_the_example_table_is_the_planted_one():
    """Write it again with ``tables.write(planted.table(recipe), tables.EXAMPLE)``."""
    recipe = planted.Recipe(sizes=(4e5, 2.5e6), architectures=("llama",), checkpoints=5)
    pd.testing.assert_frame_equal(tables.load(tables.EXAMPLE), planted.table(recipe), rtol=1e-12)
    assert tables.EXAMPLE.stat().st_size < 300_000


def test_data_cells_clone_upload_or_say_what_to_do(repository, with_install_cells, monkeypatch):
    def data(name: str) -> str:
        text = (repository / "notebooks" / name).read_text("utf-8")
        cells = nbformat.reads(with_install_cells(text, name), as_version=4).cells
        return next((cell.source for cell in cells if cell.id == "data"), "")

    monkeypatch.setattr(installing, "REPOSITORY", "")
    for name in ("selection", "token_selection"):
        assert "raise FileNotFoundError" in data(f"{name}.ipynb")
    address = "https://github.com/someone/project"
    monkeypatch.setattr(installing, "REPOSITORY", address)
    for name in ("selection", "token_selection"):
        study = f"gin_configs/studies/{name}_small.gin"
        assert f"!git clone -q --depth 1 {address} checkout" in data(f"{name}.ipynb")
        assert f"--gin_file={study}" in data(f"{name}.ipynb") and (repository / study).is_file()
    assert "files.upload()" in data("published_sweeps.ipynb") and not data("quickstart.ipynb")


@pytest.mark.slow
def test_the_published_sweeps_notebook_draws_what_was_uploaded(
    repository, published_data, tmp_path, monkeypatch
):
    monkeypatch.delenv("LOSSLINE_PUBLISHED_DATA", raising=False)
    # llm_line: data, and the tokenizer in two units; no two models differ in architecture alone.
    figures = {"kempner_sweep.csv": 2, "llm_line_hf.csv": 3, "gadre_models.csv": 1}
    present = [str(published_data.resolve() / name) for name in figures]
    present = [path for path in present if Path(path).exists()]
    if not present:
        pytest.skip("no published sweep here")
    colab = f"""
import shutil, sys, types

def upload():
    for path in {present}:
        shutil.copy(path, ".")

sys.modules["google.colab"] = types.ModuleType("google.colab")
sys.modules["google.colab"].files = types.SimpleNamespace(upload=upload)
"""
    notebook = nbformat.read(repository / "notebooks" / "published_sweeps.ipynb", as_version=4)
    ran = run(before(notebook, colab), tmp_path)
    assert pictures(ran) == sum(figures[Path(path).name] for path in present)
    assert {item.name for item in tmp_path.iterdir()} == {Path(path).name for path in present}


@pytest.mark.slow
def test_the_published_sweeps_notebook_names_missing_files(repository, tmp_path):
    notebook = execute(
        repository / "notebooks" / "published_sweeps.ipynb",
        tmp_path,
        LOSSLINE_PUBLISHED_DATA=str(tmp_path),
    )
    assert pictures(notebook) == 0
    for name in ("kempner_sweep.csv", "llm_line_hf.csv", "gadre_models.csv"):
        assert name in printed(notebook)


@pytest.mark.slow
def test_the_selection_notebook_shows_coefficients_pages_and_methods(run_in_colab, tmp_path):
    planted_pool.write_pool(tmp_path / "data")
    pool = Pool(root=str(tmp_path / "data"), domains=tuple(planted_pool.WORDS))
    options = ChooseOptions(
        pool=pool,
        targets=(Target(name="code", benchmarks=("quiz",), texts=("quiz",)),),
        methods={"dsir": Dsir(), "correlations": PerplexityCorrelations(filter_ratio=0.3)},
        budget=3000,
        resamples=20,
    )
    made = tmp_path / "made"
    (made / "select").mkdir(parents=True)
    chosen = choose(
        options,
        Bytes(),
        scores=planted_pool.planted_scores(pool=pool.fingerprint()),
        pool_fingerprint=pool.fingerprint(),
    )
    save_choices(chosen, options, made / "select", {})
    losses = planted_comparison.planted(targets=("bio", "law"))
    tables.write(losses, made / "losses.parquet")
    notebook = run_in_colab("selection", made)
    assert pictures(notebook) == 3
    text = printed(notebook)
    assert "correlations: code, score" in text and "dsir: code, score" in text
    assert "oracle" in text


@pytest.mark.slow
def test_the_token_selection_notebook_compares_budgets_and_lines(run_in_colab, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    tables.write(planted_token_selection.planted(), made / "losses.parquet")
    notebook = run_in_colab("token_selection", made)
    assert pictures(notebook) == 3
    text = printed(notebook)
    assert "pubmed: excess-60 is lowest" in text
    assert "selection_flops" in text and "the token selection moves the line" in text
