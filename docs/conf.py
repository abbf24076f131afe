"""Sphinx configuration: `make docs` builds docs/_build/html, and any warning fails the build."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start messages, in `prepare` only
os.environ["COLUMNS"] = "100"  # width of the help texts

import lossline  # noqa: E402 (found by the path above)

project = "lossline"
author = copyright = "The lossline developers"
version = release = lossline.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "indented_examples",
    "loss_table_columns",
    "public_names",
    "reference_pages",
    "repository_pages",
]
exclude_patterns = ["_build", "extensions", "figures/*.py"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"  # single backticks in docstrings are code

# Types in signatures and raised exceptions may have no page; all other references are strict.
nitpick_ignore_regex = [("py:(class|exc)", ".*"), ("py:.*", r"(?!lossline\.).*")]
# Napoleon takes words of a shape, such as (vocab_size,), for names of types.
suppress_warnings = ["ref.python"]

html_theme = "furo"
html_title = f"lossline {version}"
html_show_sphinx = False
html_copy_source = False
