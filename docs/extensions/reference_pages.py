"""Write the reference pages from the code: command lines, options, and the API of every room."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import inspect
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docstrings import described_fields, summary
from generated_pages import replace_pages
from public_names import module_names
from sphinx.application import Sphinx

from lossline.cli.configuration import Verb, run_verb

PACKAGE = Path(importlib.import_module("lossline").__file__ or "").parent
# In the order in which a study uses them.
VERBS = (
    "study",
    "gather",
    "prepare",
    "train",
    "evaluate",
    "sample",
    "harness",
    "score",
    "dynamics",
    "select",
    "fit",
    "predict",
    "next_runs",
    "compare",
    "report",
    "import_sweep",
    "convert",
    "compile",
)
# Switches that make another verb of a verb, with options of its own.
SWITCHES = {"score": "--tokens"}
_HEADER = "<!-- Generated from the code by docs/extensions/reference_pages.py; do not edit. -->\n\n"


def write_reference(folder: Path) -> None:
    """Write all generated pages of the reference below a folder."""
    replace_pages(folder, {"commands.md": commands_page(), "options.md": options_page()})
    replace_pages(folder / "api", api_pages(), whole=True)


# --- command lines -------------------------------------------------------------------------------


def help_text(verb: str) -> str:
    """Return what ``python -m lossline.<verb> --help`` prints, and the same with its switch."""
    module = importlib.import_module(f"lossline.{verb}")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        flags = getattr(module, "FLAGS", {})
        run_verb(verb, module.__doc__, module.load, flags=flags, argv=["--help"])
    if verb in SWITCHES:
        printed.write("\n")
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            module.main([SWITCHES[verb], "--help"])
    return printed.getvalue()


def commands_page() -> str:
    """Return the page of the command lines: every verb's help text."""
    parts = [
        _HEADER,
        "# Command lines\n\n"
        "Every verb is `python -m lossline.VERB`. The texts below are those of `--help`. "
        "A verb's options are bound in gin files (`--gin_file=FILE`, repeatable) or one by one "
        "(`--gin.NAME=VALUE`, which wins over files); see [](options.md). Each shipped gin file "
        "opens with what must be bound, what one usually changes, the command and the result.\n\n"
        "A user error (a missing, unknown, unused or mistyped binding, a missing file, a store of "
        "another vocabulary, a mesh that does not divide the batch) is one line that says what is "
        "wrong, where, and how to fix it, with exit status 2, before anything is written.\n",
    ]
    for verb in VERBS:
        parts.append(f"\n## {verb}\n\n```text\n{help_text(verb).rstrip()}\n```\n")
    return "".join(parts)


# --- options -------------------------------------------------------------------------------------


def owners() -> dict[str, tuple[Callable[..., Any], list[str]]]:
    """Return gin name -> the dataclass or function, and the verbs that know it, in their order."""
    found: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    for verb in VERBS:
        for loaded in _loaded(verb):
            known = {loaded.name or verb: loaded.options, **loaded.components}
            for name, component in known.items():
                verbs = found.setdefault(name, (component, []))[1]
                verbs += [verb] if verb not in verbs else []
    return found


def _loaded(verb: str) -> list[Verb]:
    """Return what an entry point loads, without and with its switch."""
    module = importlib.import_module(f"lossline.{verb}")
    switched = [module.form([SWITCHES[verb]]).load()] if verb in SWITCHES else []
    return [module.load(), *switched]


def options_page() -> str:
    """Return the page of all gin-configurable options: a table for each verb and component."""
    parts = [
        _HEADER,
        "# Options\n\n"
        "Everything that a gin file can bind, by verb. `verb.option = value` binds an option of "
        "a verb; `@component()` builds a component, whose options are bound under its own name: "
        "`train.model = @llama()` with `llama.width = 256`. An unknown, unused or mistyped "
        "binding stops the program before anything is written. A component that several verbs "
        "know is listed once, under the first of them.\n",
    ]
    known = owners()
    for verb in VERBS:
        parts.append(f"\n## {verb}\n")
        here = [name for name, (_, verbs) in known.items() if verbs[0] == verb]
        for name in sorted(here, key=lambda name: name != verb):
            component, verbs = known[name]
            parts.append(_options_section(name, component, verb, verbs[1:]))
        shared = [name for name, (_, verbs) in known.items() if verb in verbs[1:]]
        if shared:
            links = ", ".join(f"[{name}](#{_anchor(name, known)})" for name in shared)
            parts.append(f"\nAlso used by `{verb}`: {links}.\n")
    return "".join(parts)


def _anchor(name: str, known: Mapping[str, tuple[Any, list[str]]]) -> str:
    return f"option-{known[name][1][0]}-{name}"


def _options_section(name: str, component: Any, verb: str, others: list[str]) -> str:
    bound = [loaded.name or verb for loaded in _loaded(verb)]
    shown = f"`{name}`" if name in bound else f"`@{name}()`"
    also = f" Also used by {', '.join(f'`{other}`' for other in others)}." if others else ""
    rows = "".join(
        f"| `{name}.{field}` | {_code(kind)} | {_code(default)} | {_cell(text)} |\n"
        for field, kind, default, text in option_rows(component)
    )
    table = f"| option | type | default | meaning |\n|---|---|---|---|\n{rows}" if rows else ""
    return f"\n(option-{verb}-{name})=\n### {shown}\n\n{summary(component)}{also}\n\n{table}"


def option_rows(component: Callable[..., Any]) -> list[tuple[str, str, str, str]]:
    """Return (field, type, default, text) for each option of a component; "" where not given."""
    texts = described_fields(component)
    defaults = _factories(component)
    rows = []
    for name, parameter in inspect.signature(component).parameters.items():
        default = defaults.get(name, parameter.default)
        rows.append((name, _type(parameter.annotation), _default(default), texts.get(name, "")))
    return rows


def _factories(component: Callable[..., Any]) -> dict[str, Any]:
    """Return field -> default for the fields of a dataclass that a factory fills."""
    if not dataclasses.is_dataclass(component):
        return {}
    missing = dataclasses.MISSING
    fields = dataclasses.fields(component)
    return {f.name: f.default_factory for f in fields if f.default_factory is not missing}


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "must be bound"
    if isinstance(value, enum.Enum):
        return repr(value.value)
    if inspect.isclass(value):
        return f"{value.__name__}()"
    return repr(value)


def _code(text: str) -> str:
    return "must be bound" if text == "must be bound" else f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    """Return text for a cell of a table; docstrings' double backticks are code in Markdown too."""
    return text.replace("|", "\\|")


# --- API -----------------------------------------------------------------------------------------


def rooms() -> list[str]:
    """Return the packages directly below ``lossline``, sorted."""
    return sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))


def api_pages() -> dict[str, str]:
    """Return file name -> text: one page for each room, and one for the modules next to them."""
    pages = {f"{room}.md": _api_page(room) for room in rooms()}
    beside = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem not in VERBS)
    sections = "".join(
        f"\n## {name}\n\n{_automodule(f'lossline.{name}')}" for name in beside if name != "__init__"
    )
    own = _automodule("lossline", members=False)
    return {**pages, "lossline.md": f"{_HEADER}# lossline\n\n{own}{sections}"}


def _api_page(room: str) -> str:
    package = f"lossline.{room}"
    modules = [name for name in module_names(package) if name != package]
    sections = "".join(
        f"\n## {name.removeprefix('lossline.')}\n\n{_automodule(name)}" for name in modules
    )
    exported = list(getattr(importlib.import_module(package), "__all__", ()))
    names = ", ".join(f"`{name}`" for name in exported)
    imports = f"\n`from {package} import …` offers {names}.\n" if exported else ""
    own = _automodule(package, members=False)
    return f"{_HEADER}# {package}\n\n{own}{imports}{sections}"


def _automodule(name: str, *, members: bool = True) -> str:
    options = "   :members:\n" if members else ""
    return f"```{{eval-rst}}\n.. automodule:: {name}\n{options}```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for sources."""
    app.connect("builder-inited", lambda app: write_reference(Path(app.srcdir) / "reference"))
    return {"parallel_read_safe": True}
