"""How lossline is installed: the name of its distribution, where its repository is, and the words
of the messages.

``setup.py`` and ``notebooks/install_cells.py`` read this file, so it imports nothing.
"""

# Address of the repository, such as "https://github.com/OWNER/lossline"; empty until it is
# published. After a change run `python notebooks/install_cells.py`.
REPOSITORY = ""

# On the package index "lossline" is somebody else's project; the import name stays `lossline`.
DISTRIBUTION = "lossline-jax"


def install_command(extra: str) -> str:
    """The command that installs lossline with an extra, such as "data"."""
    if not REPOSITORY:
        return f"pip install -e '.[{extra}]'"
    return f"pip install '{DISTRIBUTION}[{extra}] @ git+{REPOSITORY}'"


def install_extra(extra: str) -> str:
    """End of a message about a missing package: which extra to install, and the command."""
    where = "" if REPOSITORY else " in the checkout"
    return f"install the [{extra}] extra: `{install_command(extra)}`{where}"
