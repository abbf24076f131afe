"""Fail the build on public names without a docstring.

Public are all modules of the package and, within a module, the functions, classes, methods and
properties whose names do not start with an underscore. A method that overrides a documented one
inherits its text.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging


def module_names(package: str) -> list[str]:
    """Return the names of a package and of all modules below it, sorted."""
    found = importlib.import_module(package)
    names = [item.name for item in pkgutil.walk_packages(found.__path__, prefix=f"{package}.")]
    return sorted([package, *names])


def undocumented(module: ModuleType) -> Iterator[str]:
    """Yield the full name of every public name of a module that has no docstring."""
    if not (module.__doc__ or "").strip():
        yield module.__name__
    for name, value in vars(module).items():
        defined_here = getattr(value, "__module__", None) == module.__name__
        if name.startswith("_") or not defined_here:
            continue
        if inspect.isclass(value):
            if not (value.__doc__ or "").strip() or _doc_is_generated(value):
                yield f"{module.__name__}.{name}"
            yield from _undocumented_members(f"{module.__name__}.{name}", value)
        elif inspect.isfunction(value) and not inspect.getdoc(value):
            yield f"{module.__name__}.{name}"


def _doc_is_generated(value: type) -> bool:
    """Whether a docstring is the signature that `dataclass` writes where none is given."""
    return (value.__doc__ or "").startswith(f"{value.__name__}(")


def _undocumented_members(owner: str, value: type) -> Iterator[str]:
    fields = getattr(value, "__dataclass_fields__", {})  # a default may be a function
    for name, member in vars(value).items():
        if name.startswith("_") or name in fields or not _is_callable_or_property(member):
            continue
        if not inspect.getdoc(getattr(value, name)):
            yield f"{owner}.{name}"


def _is_callable_or_property(member: Any) -> bool:
    kinds = (staticmethod, classmethod, property)
    return inspect.isfunction(member) or isinstance(member, kinds) or hasattr(member, "attrname")


def _check(app: Sphinx) -> None:
    logger = logging.getLogger(__name__)
    for name in module_names(app.config.documented_package):
        for missing in undocumented(importlib.import_module(name)):
            logger.warning("public name without a docstring: %s", missing)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the check to the start of a build."""
    app.add_config_value("documented_package", "lossline", "env")
    app.connect("builder-inited", _check)
    return {"parallel_read_safe": True}
