"""Register components in gin, with a check of the names and types of what is bound.

With ``from __gin__ import dynamic_registration``, a gin file takes components from the modules that
it imports, beside those of the verb.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lossline.errors import UserError
from lossline.places import to_path

REGISTERED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def register(name: str, component: Callable[..., Any]) -> Callable[..., Any]:
    """Register ``component`` in gin under ``name``, with a check of names and types.

    Returns:
        The configurable that gin made of it.
    """
    import gin

    if name in REGISTERED:
        known, factory = REGISTERED[name]
        if known is not component:
            raise ValueError(f"two components registered as {name}: {known} and {component}")
        return factory

    if name in ("constant", "macro", "singleton"):
        raise ValueError(f"gin itself has a {name}: a reference to ours would be ambiguous")
    signature = inspect.signature(component)
    hints = _hints(component)

    def build(**given: Any) -> Any:
        return component(**_checked(name, signature, hints, given))

    build.__name__ = build.__qualname__ = name.rsplit(".", 1)[-1]
    build.__signature__ = _keyword_signature(signature)  # type: ignore[attr-defined]
    build.__module__, build.__doc__ = "lossline", component.__doc__
    factory = gin.external_configurable(build, name=name, module="lossline")
    REGISTERED[name] = (component, factory)
    return factory


def _hints(component: Callable[..., Any]) -> dict[str, Any]:
    # Hints of a dataclass resolve in the module of each base class; hints of its __init__ do not.
    named = inspect.isfunction(component) or dataclasses.is_dataclass(component)
    return typing.get_type_hints(component if named else component.__init__)


class _NotWritable:
    """Default of an option whose own default cannot be written as gin text."""


def _keyword_signature(signature: inspect.Signature) -> inspect.Signature:
    """Return the same parameters, keyword-only, with defaults that gin can print."""
    parameters = []
    for item in signature.parameters.values():
        default = item.default
        if default is not inspect.Parameter.empty and not isinstance(
            default, (bool, int, float, str, type(None))
        ):
            default = _NotWritable()
        parameters.append(item.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=default))
    return signature.replace(parameters=parameters)


def _checked(
    name: str, signature: inspect.Signature, hints: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    import gin

    required = [
        key for key, item in signature.parameters.items() if item.default is inspect.Parameter.empty
    ]
    missing = [key for key in required if key not in given]
    missing += [key for key, value in given.items() if value is gin.REQUIRED]
    if missing:
        wanted = ", ".join(f"{name}.{key}" for key in missing)
        raise UserError(
            f"missing binding: {wanted}. Bind it in a gin file (--gin_file=…) or with "
            f"--gin.{name}.{missing[0]}=…"
        )
    return {
        key: _coerce(f"{name}.{key}", value, hints.get(key, Any)) for key, value in given.items()
    }


def _coerce(where: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the annotated type.

    Lists become tuples, strings become enum members or paths, and ints become floats.

    Raises:
        UserError: names the binding, its value and the required type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return value
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise UserError(f"{where} = {value!r}: must be one of {', '.join(map(repr, arguments))}")
    if origin in (typing.Union, types.UnionType):
        return _coerce_union(where, value, arguments)
    if origin in (tuple, list) or (inspect.isclass(origin) and issubclass(origin, Sequence)):
        return _coerce_sequence(where, value, arguments, hint)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} = {value!r}: must be a dictionary")
        return {
            key: _coerce(f"{where}[{key!r}]", item, arguments[1]) for key, item in value.items()
        }
    if origin is not None or not inspect.isclass(hint):
        return value  # callables and other generics: the component itself checks them
    return _coerce_plain(where, value, hint)


def _coerce_union(where: str, value: Any, arguments: Sequence[Any]) -> Any:
    if value is None and type(None) in arguments:
        return None
    problems = []
    for argument in arguments:
        if argument is type(None):
            continue
        try:
            return _coerce(where, value, argument)
        except UserError as error:
            problems.append(error)
    raise problems[0]


def _coerce_sequence(where: str, value: Any, arguments: Sequence[Any], hint: Any) -> Any:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{where} = {value!r}: must be a list ({hint})")
    fixed = bool(arguments) and Ellipsis not in arguments and typing.get_origin(hint) is tuple
    if fixed and len(arguments) != len(value):
        raise UserError(f"{where} = {value!r}: must have {len(arguments)} items, has {len(value)}")
    inner = arguments if fixed else [arguments[0] if arguments else Any] * len(value)
    return tuple(
        _coerce(f"{where}[{i}]", item, kind)
        for i, (item, kind) in enumerate(zip(value, inner, strict=True))
    )


def _coerce_plain(where: str, value: Any, hint: type) -> Any:
    if issubclass(hint, enum.Enum):
        try:
            return value if isinstance(value, hint) else hint(value)
        except ValueError:
            names = ", ".join(repr(member.value) for member in hint)
            raise UserError(f"{where} = {value!r}: must be one of {names}") from None
    if issubclass(hint, Path) and isinstance(value, str):
        return to_path(value, where)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and whole:
        return float(value)
    if hint is int and isinstance(value, bool):
        raise UserError(f"{where} = {value!r}: must be a whole number, not True or False")
    if (
        _has_members(value, hint)
        if getattr(hint, "_is_protocol", False)
        else isinstance(value, hint)
    ):
        return value
    if isinstance(value, type) or inspect.isfunction(value):
        name = value.__name__
        raise UserError(f"{where} = @{name}: write @{name}() with brackets, to take what it makes")
    shown = (
        value
        if isinstance(value, (int, float, str, bool, list, tuple, dict))
        else type(value).__name__
    )
    kinds = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}
    raise UserError(
        f"{where} = {shown!r}: must be {kinds.get(hint, f'of type {hint.__name__} (as @name())')}"
    )


def _has_members(value: Any, protocol: type) -> bool:
    """Return whether a component has the public members of a protocol; a class has none yet."""
    names = {*vars(protocol), *protocol.__annotations__}
    missing = object()
    return all(
        not inspect.isclass(value) and inspect.getattr_static(value, name, missing) is not missing
        for name in names
        if not name.startswith("_")
    )


def take_components_of_imports() -> None:
    """Let gin files with ``from __gin__ import dynamic_registration`` build what they import.

    The names of the verb's own components stay known in such a file, where gin itself would know
    only imported names. A class or function of an imported module is registered with our checks
    of names and types if all its parameters have names, otherwise by gin.
    """
    from gin import config

    if getattr(config.ParseContext, "of_lossline", False):
        return

    class Context(config.ParseContext):
        of_lossline = True

        def get_configurable(self, selector: str) -> Any:
            own = config._REGISTRY.get_match(selector)
            first, _, rest = selector.partition(".")
            if first == "gin" or first not in self._symbol_table or (own and not rest):
                return own
            names, values = self._resolve_selector(selector)
            if not callable(values[-1]):
                return own
            if _takes_names_only(values[-1]):
                register(_name_of(values[-1]), values[-1])
                return config._REGISTRY.get_match(f"lossline.{_name_of(values[-1])}")
            return config._inverse_lookup(values[-1]) or self._register(names, values)

    config.ParseContext = Context


def _name_of(component: Callable[..., Any]) -> str:
    """Return the name under which a component is registered, or else its name in Python."""
    for name, (known, _) in REGISTERED.items():
        if known is component:
            return name
    return f"{component.__module__}.{component.__qualname__}"


def _takes_names_only(component: Any) -> bool:
    """Return whether every parameter has a name and a hint that resolves."""
    if not (inspect.isfunction(component) or inspect.isclass(component)):
        return False
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        _hints(component)
        return all(item.kind in named for item in inspect.signature(component).parameters.values())
    except (NameError, TypeError, ValueError):
        return False
