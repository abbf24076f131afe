"""How lossline is installed: name of the distribution, address of the repository, and messages.

``setup.py`` and ``notebooks/install_cells.py`` read this file, so it imports nothing.
"""

# Address of the repository, such as "https://github.com/OWNER/lossline"; empty until it is
# published. After a change, run `python notebooks/install_cells.py`.
REPOSITORY = ""

# On the package index, "lossline" is another project. The import name is still `lossline`.
DISTRIBUTION = "lossline-jax"


def install_command(extra: str) -> str:
    """Return the command that installs lossline with an extra, such as "data"."""
    if not REPOSITORY:
        return f"pip install -e '.[{extra}]'"
    return f"pip install '{DISTRIBUTION}[{extra}] @ git+{REPOSITORY}'"


def install_extra(extra: str) -> str:
    """Return the end of a message about a missing package: the extra, and the command."""
    where = "" if REPOSITORY else " in the checkout"
    return f"install the [{extra}] extra: `{install_command(extra)}`{where}"
