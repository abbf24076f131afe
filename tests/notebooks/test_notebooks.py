"""The notebooks run from top to bottom, and skip sections without data."""

import os
import runpy
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
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    settings = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": str(path.parents[1]),
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
def test_the_published_sweeps_notebook_draws_every_file_that_is_present(
    repository, published_data, tmp_path
):
    notebook = execute(
        repository / "notebooks" / "published_sweeps.ipynb",
        tmp_path,
        LOSSLINE_PUBLISHED_DATA=str(published_data.resolve()),
    )
    files = ("kempner_sweep.csv", "llm_line_hf.csv", "gadre_models.csv")
    present = sum((published_data / name).exists() for name in files)
    assert pictures(notebook) >= present


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
def test_the_selection_notebook_shows_coefficients_pages_and_methods(repository, tmp_path):
    planted_pool.write_pool(tmp_path / "data")
    pool = Pool(root=str(tmp_path / "data"), domains=tuple(planted_pool.WORDS))
    options = ChooseOptions(
        pool=pool,
        targets=(Target(name="code", benchmarks=("quiz",), texts=("quiz",)),),
        methods={"dsir": Dsir(), "correlations": PerplexityCorrelations(filter_ratio=0.3)},
        budget=3000,
        resamples=20,
    )
    (tmp_path / "select").mkdir()
    chosen = choose(
        options,
        Bytes(),
        scores=planted_pool.planted_scores(pool=pool.fingerprint()),
        pool_fingerprint=pool.fingerprint(),
    )
    save_choices(chosen, options, tmp_path / "select", {})
    losses = planted_comparison.planted(targets=("bio", "law"))
    tables.write(losses, tmp_path / "losses.parquet")
    notebook = execute(
        repository / "notebooks" / "selection.ipynb",
        tmp_path,
        LOSSLINE_SELECT=str(tmp_path / "select"),
        LOSSLINE_LOSSES=str(tmp_path / "losses.parquet"),
    )
    assert pictures(notebook) == 3
    text = printed(notebook)
    assert "correlations: code, score" in text and "dsir: code, score" in text
    assert "oracle" in text


@pytest.mark.slow
def test_the_token_selection_notebook_compares_budgets_and_lines(repository, tmp_path):
    tables.write(planted_token_selection.planted(), tmp_path / "losses.parquet")
    notebook = execute(
        repository / "notebooks" / "token_selection.ipynb",
        tmp_path,
        LOSSLINE_LOSSES=str(tmp_path / "losses.parquet"),
    )
    assert pictures(notebook) == 3
    text = printed(notebook)
    assert "pubmed: excess-60 is lowest" in text
    assert "selection_flops" in text and "the token selection moves the line" in text
