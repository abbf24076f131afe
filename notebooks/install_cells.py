"""Write the install cell and the Colab badge of every notebook in this folder.

    python notebooks/install_cells.py

Both depend on ``lossline/installing.py``. Run this script after changing its ``REPOSITORY``.
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


def with_install_cells(text: str, name: str) -> str:
    """Return a notebook with the install cell as first code cell and the badge as first cell.

    Args:
        text: content of the ``.ipynb`` file.
        name: name of the file; the badge opens it in Colab.
    """
    notebook = json.loads(text)
    ours = ("badge", "install")
    cells = [cell for cell in notebook["cells"] if cell["id"] not in ours]
    first_code = next(i for i, cell in enumerate(cells) if cell["cell_type"] == "code")
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
