"""Write the install cell, the data cell and the Colab badge of every notebook in this folder.

    python notebooks/install_cells.py

They depend on ``lossline/installing.py``. Run this script after changing its ``REPOSITORY``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

from lossline import installing  # noqa: E402

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com"
STUDIES = {"selection.ipynb": "selection_small", "token_selection.ipynb": "token_selection_small"}
UPLOADS = {"published_sweeps.ipynb": "kempner_sweep.csv, llm_line_hf.csv, gadre_models.csv"}


def with_install_cells(text: str, name: str) -> str:
    """Return a notebook with the install cell as first code cell and the badge as first cell.

    The data cell makes or uploads what the notebook needs. An upload comes before the cell that
    reads it, a study after the cell that names its table.

    Args:
        text: content of the ``.ipynb`` file.
        name: name of the file; the badge opens it in Colab.
    """
    notebook = json.loads(text)
    ours = ("badge", "install", "data")
    cells = [cell for cell in notebook["cells"] if cell["id"] not in ours]
    first_code = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "code")
    if data := data_source(name):
        cells.insert(first_code + (name in STUDIES), _code("data", data))
    cells.insert(first_code, _code("install", install_source()))
    badge = badge_source(name)
    notebook["cells"] = [*([_markdown("badge", badge)] if badge else []), *cells]
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def install_source() -> str:
    """Return the code that installs lossline if it is missing.

    Without a published repository, the code raises an error with the install command.
    """
    command = installing.install_command("data")
    if installing.REPOSITORY:
        action = f"%{command}"
    else:
        message = f"lossline is not installed: run `{command}` in the checkout"
        action = f'raise ModuleNotFoundError(\n        "{message}"\n    )'
    return (
        f'import importlib.util\n\nif importlib.util.find_spec("lossline") is None:\n    {action}'
    )


def data_source(name: str) -> str:
    """Return the code that makes or uploads what the notebook needs; "" if the package has it.

    A study runs in the checkout, which is cloned if the repository is published.
    """
    if name in UPLOADS:
        return (
            "import os\nimport sys\n\n"
            'if "google.colab" in sys.modules and "LOSSLINE_PUBLISHED_DATA" not in os.environ:\n'
            "    from google.colab import files\n\n"
            f"    files.upload()  # {UPLOADS[name]}\n"
            '    os.environ["LOSSLINE_PUBLISHED_DATA"] = "."'
        )
    if name not in STUDIES:
        return ""
    study = STUDIES[name]
    if installing.REPOSITORY:
        get = f"!git clone -q --depth 1 {installing.REPOSITORY} checkout\n        %cd -q checkout"
    else:
        get = (
            "raise FileNotFoundError(\n"
            f'            f"{{LOSSES}} does not exist: run gin_configs/studies/{study}.gin with "\n'
            '            "python -m lossline.study in the checkout, or set LOSSES"\n'
            "        )"
        )
    folders = [f'LOSSES = "runs/{study}/losses.parquet"']
    if name == "selection.ipynb":
        folders.append(f'SELECT = Path("runs/{study}/select")')
    lines = [
        "import sys",
        "from pathlib import Path",
        "",
        "if not Path(LOSSES).exists():  # make a small study: minutes, and its numbers say nothing",
        '    if not Path("gin_configs/studies").is_dir():',
        f"        {get}",
        "    PYTHON = sys.executable",
        f"    !{{PYTHON}} -m lossline.study --gin_file=gin_configs/studies/{study}.gin",
        *(f"    {line}" for line in folders),
    ]
    return "\n".join(lines)


def badge_source(name: str) -> str:
    """Return the badge that opens a notebook in Colab.

    It is empty unless the repository is on GitHub, the only host that Colab opens.
    """
    address = installing.REPOSITORY.removesuffix("/").removesuffix(".git")
    if not address.startswith(GITHUB):
        return ""
    place = f"{address.removeprefix(GITHUB)}/blob/main/notebooks/{name}"
    return f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{place})"


def _code(name: str, source: str) -> dict[str, Any]:
    rest = {"execution_count": None, "id": name, "metadata": {}, "outputs": []}
    return {"cell_type": "code", **rest, "source": source.splitlines(keepends=True)}


def _markdown(name: str, source: str) -> dict[str, Any]:
    rest = {"id": name, "metadata": {}}
    return {"cell_type": "markdown", **rest, "source": source.splitlines(keepends=True)}


def main() -> None:
    """Rewrite all notebooks of this folder."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        text = with_install_cells(path.read_text(encoding="utf-8"), path.name)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
