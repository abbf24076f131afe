"""The edge: command lines and gin files become one tree of frozen option dataclasses.

Nothing inside the rooms knows gin. An entry point names its options class, the components that a
gin file may build, and the function to call; everything a person can get wrong on the way is one
line and exit status 2.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import enum
import errno
import inspect
import logging
import os
import re
import select
import signal
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossline.errors import UserError

Loader = Callable[[], "Verb"]

# What a file system refuses that a person can mend, and how.
_PLACES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "name a place that you may use"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP), "name another place"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What an entry point does once its imports are done.

    Attributes:
        options: frozen keyword-only dataclass; bound in gin under the verb's name
            (``train.steps = 100``).
        run: called with the built options.
        components: gin name -> dataclass (or keyword-only function) that option fields may hold
            (``@llama()``).
    """

    options: type
    run: Callable[[Any], object]
    components: Mapping[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Flag:
    """A command-line flag that stands for one gin binding.

    ``kind`` is "value" (``--name=x``), "values" (``--name a b``), "switch" (``--name``) or
    "positional" (``x``).
    """

    binding: str
    help: str
    kind: str = "value"


def run_verb(
    name: str,
    description: str | None,
    load: Loader,
    *,
    flags: Mapping[str, Flag | tuple[str, str]] | None = None,
    argv: Sequence[str] | None = None,
) -> None:
    """Parses the command line, builds the options, runs the verb; a person's mistake is status 2.

    Args:
        name: the verb, which is also the gin name of its options.
        description: text of ``--help``; by custom the module's docstring.
        load: imports what is heavy and returns the ``Verb``; not called for ``--help``.
        flags: flag name -> ``Flag`` or ``(binding, help)``.
        argv: arguments after the program's name; default ``sys.argv[1:]``.
    """
    known = {
        key: flag if isinstance(flag, Flag) else Flag(*flag) for key, flag in (flags or {}).items()
    }
    try:
        gin_files, bindings = _parse_command_line(name, description, known, argv, load)
        verb = load()
        verb.run(build_options(name, verb, gin_files=gin_files, bindings=bindings))
    except UserError as error:
        print(f"lossline {name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # of another pipe: a bug
        # nothing is left for Python to flush there
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if (refusal := _refusal_of_a_place(error)) is None:
            raise  # a bug
        print(f"lossline {name}: error: {refusal}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(
            f"lossline {name}: interrupted; the same command goes on where it was", file=sys.stderr
        )
        sys.exit(130)


def _reader_has_gone() -> bool:
    """Whether nobody reads what is printed any more (``… | head``)."""
    output = select.poll()
    output.register(1)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _refusal_of_a_place(error: Exception) -> str | None:
    """What a file system has refused, where, and the mend; None where it is another error.

    Libraries in C++ and Rust tell the number of the system's error in their text.
    """
    if isinstance(error, OSError):
        number, where = error.errno, error.filename
    else:
        text = " ".join([str(error), *getattr(error, "__notes__", ())])
        told = re.search(r"os error (\d+)|os_error_code='(\d+)'", text)
        number = int(told[1] or told[2]) if told else None
        found = re.search(r'local file "([^"]+)"', text)
        where = found[1] if found else None
    if number == errno.ENOENT and where and _takes_nothing_new(Path(os.fsdecode(where)).parent):
        return f"{where}: nothing can be made there; name another place"
    if number not in _PLACES:
        return None
    return f"{f'{where}: ' if where else ''}{os.strerror(number)}; {_PLACES[number]}"


def _takes_nothing_new(folder: Path) -> bool:
    """Whether a folder is one such as /proc, which answers "no such file" to who makes one."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return False
    except OSError:
        return folder.is_dir()


def build_options(
    name: str, verb: Verb, *, gin_files: Sequence[str | Path] = (), bindings: Sequence[str] = ()
) -> Any:
    """Resolves gin files and bindings into ``verb.options``.

    Raises:
        UserError: missing file; unknown, unused, mistyped or missing binding.
    """
    import gin

    gin.clear_config(clear_constants=True)
    _read_files_only()
    factory = _register(name, verb.options)
    for component_name, component in verb.components.items():
        _register(component_name, component)
    for folder in _search_path(gin_files):
        gin.add_config_file_search_path(folder)
    for path in gin_files:
        if not Path(path).is_file():
            raise UserError(f"--gin_file: no file {path}{_nearest_file(Path(path))}")
    logging.disable(logging.ERROR)  # gin logs every folder in which an included file is not
    try:
        gin.parse_config_files_and_bindings(
            [str(path) for path in gin_files], list(bindings), finalize_config=False
        )
    except (ValueError, TypeError, SyntaxError, KeyError, OSError) as error:
        raise UserError(_gin_message(error)) from error
    finally:
        logging.disable(logging.NOTSET)
    _refuse_unset_macros()
    try:
        options = factory()
    except UserError as error:
        raise UserError(str(error).splitlines()[0]) from error  # gin appends where it was called
    except (RuntimeError, ValueError) as error:
        if "Required bindings" in str(error) or "No configurable matching" in str(error):
            raise UserError(_gin_message(error)) from error
        raise
    _refuse_unused()
    return options


def binding(key: str, value: object) -> str:
    """One gin binding line out of a Python value: ``binding("train.steps", 3)`` is ``"train.steps =
    3"``.
    """
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return f"{key} = {value}"
    return f"{key} = {value!r}"


# --- command line --------------------------------------------------------------------------------


def _parse_command_line(
    name: str,
    description: str | None,
    flags: Mapping[str, Flag],
    argv: Sequence[str] | None,
    load: Loader,
) -> tuple[list[str], list[str]]:
    parser = argparse.ArgumentParser(
        prog=f"python -m lossline.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--gin.NAME=VALUE binds one option, after the files: --gin.train.steps=100",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--gin_file",
        action="append",
        default=[],
        metavar="FILE",
        help="gin file; may be given more than once",
    )
    for key, flag in flags.items():
        text = f"{flag.help} (binds {flag.binding})"
        if flag.kind == "positional":
            parser.add_argument(key, help=text)
        elif flag.kind == "switch":
            parser.add_argument(f"--{key}", action="store_true", default=None, help=text)
        else:
            parser.add_argument(f"--{key}", nargs="+" if flag.kind == "values" else None, help=text)
    known, rest = parser.parse_known_args(argv)
    bindings = []
    for key, flag in flags.items():
        value = getattr(known, key)
        if value is not None:
            bindings.append(f"{flag.binding} = {value!r}")
    bindings += _gin_bindings(rest, lambda argument: _meant(argument, name, flags, load()))
    return known.gin_file, bindings


def _meant(argument: str, name: str, flags: Mapping[str, Flag], verb: Verb) -> str:
    """What an unknown argument may have been meant to be: an option of the verb or of what it is
    built of, or a flag spelled otherwise.
    """
    option = argument.lstrip("-").partition("=")[0].replace("-", "_")
    owners: dict[str, Callable[..., Any]] = {name: verb.options, **verb.components}
    bound = [
        f"--gin.{owner}.{option}=VALUE"
        for owner, made in owners.items()
        if argument.startswith("--") and option in inspect.signature(made).parameters
    ]
    if bound and option not in flags:
        more = ", …" if len(bound) > 3 else ""
        return f"did you mean {' or '.join(bound[:3])}{more}?"
    near = difflib.get_close_matches(option, ["gin_file", *flags], n=1)
    if near and argument.startswith("--"):
        return f"did you mean --{near[0]}?"
    return "options are bound as --gin.NAME=VALUE, see --help"


def _gin_bindings(arguments: Sequence[str], meant: Callable[[str], str]) -> list[str]:
    """``--gin.NAME=VALUE`` or ``--gin.NAME VALUE`` to binding lines; a bare word counts as a
    string. ``meant`` proposes something in place of another argument.
    """
    bindings = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--gin."):
            raise UserError(f"unknown argument {argument}; {meant(argument)}")
        key, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            if not rest:
                raise UserError(f"{argument} has no value; write {argument}=VALUE")
            value = rest.pop(0)
        bindings.append(f"{key.strip()} = {_gin_value(value.strip())}")
    return bindings


def _gin_value(text: str) -> str:
    if text[:1] in ("@", "%", "[", "(", "{"):
        return text
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return repr(text)
    return text


def _search_path(gin_files: Sequence[str | Path]) -> list[str]:
    """Folders against which ``include`` lines are resolved: the file's own, the working folder's,
    the checkout's.
    """
    folders = [str(Path(path).resolve().parent) for path in gin_files]
    folders += ["gin_configs", str(Path(__file__).resolve().parents[1] / "gin_configs")]
    return list(dict.fromkeys(folders))


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f" (there is no folder {folder} either)"
    near = difflib.get_close_matches(path.name, [item.name for item in folder.iterdir()], n=1)
    return (
        f"; did you mean {folder / near[0]}?" if near else f"; {folder} holds no file of that name"
    )


# --- gin -----------------------------------------------------------------------------------------

_REGISTERED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}


def _register(name: str, component: Callable[..., Any]) -> Callable[..., Any]:
    """Makes ``component`` known to gin under ``name``, behind a check of names and types; returns
    the gin version.
    """
    import gin

    if name in _REGISTERED:
        known, factory = _REGISTERED[name]
        if known is not component:
            raise ValueError(f"two components registered as {name}: {known} and {component}")
        return factory

    if name in ("constant", "macro", "singleton"):
        raise ValueError(f"gin itself has a {name}: a reference to ours would be ambiguous")
    signature = inspect.signature(component)
    # A dataclass's own hints resolve in the module of each of its bases; its __init__'s would not.
    named = inspect.isfunction(component) or dataclasses.is_dataclass(component)
    hints = typing.get_type_hints(component if named else component.__init__)

    def build(**given: Any) -> Any:
        return component(**_checked(name, signature, hints, given))

    build.__name__ = build.__qualname__ = name.rsplit(".", 1)[-1]
    build.__signature__ = _keyword_signature(signature)  # type: ignore[attr-defined]
    build.__module__, build.__doc__ = "lossline", component.__doc__
    factory = gin.external_configurable(build, name=name, module="lossline")
    _REGISTERED[name] = (component, factory)
    return factory


class _NotWritable:
    """Default of an option whose default cannot be written as gin text."""


def _keyword_signature(signature: inspect.Signature) -> inspect.Signature:
    """The same parameters, keyword-only, with defaults that gin may print."""
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
            f"missing binding: {wanted}; bind it in the gin file or with "
            f"--gin.{name}.{missing[0]}=…"
        )
    return {
        key: _coerce(f"{name}.{key}", value, hints.get(key, Any)) for key, value in given.items()
    }


def _coerce(where: str, value: Any, hint: Any) -> Any:
    """``value`` as the annotated type: lists to tuples, strings to enum members or paths, whole
    numbers to floats.

    Raises:
        UserError: naming the binding, what it holds and what it should hold.
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
        return value  # callables and other generics: the component itself judges
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
        return Path(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and whole:
        return float(value)
    if hint is int and isinstance(value, bool):
        raise UserError(f"{where} = {value!r}: must be a whole number, not a truth value")
    if getattr(hint, "_is_protocol", False) or isinstance(value, hint):
        return value
    shown = (
        value
        if isinstance(value, (int, float, str, bool, list, tuple, dict))
        else type(value).__name__
    )
    kinds = {int: "a whole number", float: "a number", str: "a string", bool: "True or False"}
    raise UserError(
        f"{where} = {shown!r}: must be {kinds.get(hint, f'a {hint.__name__} (as @name())')}"
    )


def _read_files_only() -> None:
    """An included file is a file. gin also takes its folder for a Python package, and fails where
    the working folder has one of that name: ``runs/quickstart.gin`` beside ``runs/``.
    """
    from gin import config as gin_config

    gin_config._FILE_READERS[:] = [(open, os.path.isfile)]  # gin offers no public way


def _refuse_unused() -> None:
    """Every binding must have had an effect: one that had none is a typing mistake or a forgotten
    reference.
    """
    from gin import config as gin_config

    used = gin_config._OPERATIVE_CONFIG  # gin offers no public reader of what was used
    for (scope, selector), parameters in gin_config._CONFIG.items():
        scopes = [s for s, other in used if other == selector]
        if any(s == scope or scope == "" or s.startswith(f"{scope}/") for s in scopes):
            continue
        if selector == "gin.macro":
            raise UserError(
                f"unused binding: {scope} = … is set but %{scope} is used nowhere; "
                "remove it or refer to it"
            )
        component = selector.removeprefix("lossline.")
        name = f"{scope}/{component}" if scope else component
        key = next(iter(parameters), "")
        raise UserError(
            f"unused binding: {name}.{key} is set but @{name}() is used nowhere; "
            "remove it or refer to it"
        )


def _refuse_unset_macros() -> None:
    """A macro that is referred to must be set."""
    from gin import config as gin_config

    known = {scope for scope, selector in gin_config._CONFIG if selector == "gin.macro"}
    for (_, selector), parameters in gin_config._CONFIG.items():
        for reference in gin_config.iterate_references(
            parameters, to=gin_config.get_configurable("gin.macro")
        ):
            name = "/".join(reference.scopes)
            if name not in known:
                where = f"{selector.removeprefix('lossline.')} refers to %{name}"
                raise UserError(
                    f"missing binding: {where}, which is set nowhere; add a line {name} = …"
                )


def _gin_message(error: Exception) -> str:
    """gin's message in one line, the place first."""
    text = str(error)
    place = re.search(
        r"[Ii]n (?:file|bindings string) \"?([^\"\n]+?)\"?, line (\d+)", text
    ) or re.search(r"[Ii]n bindings string[^\n]*line (\d+)", text)
    first = text.splitlines()[0].strip() if text.strip() else type(error).__name__
    missing = re.search(
        r"Required bindings for `?([\w./]+)`? not provided in config: (\[.*?\])", text
    )
    if missing:
        keys = ", ".join(f"{missing[1]}.{key}" for key in ast.literal_eval(missing[2]))
        first = keys.split(", ")[0]
        return f"missing binding: {keys}; bind it in the gin file or with --gin.{first}=…"
    unknown = re.search(r"No configurable matching (?:reference )?'@?%?([\w./]+)", text)
    if unknown:
        near = difflib.get_close_matches(unknown[1].rsplit("/", 1)[-1], list(_REGISTERED), n=1)
        hint = (
            f"; did you mean {near[0]}?"
            if near
            else f"; known here: {', '.join(sorted(_REGISTERED))}"
        )
        first = f"unknown binding: nothing here is called {unknown[1]!r}{hint}"
    parameter = re.search(r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'", text)
    if parameter and parameter[1] in _REGISTERED:
        names = list(inspect.signature(_REGISTERED[parameter[1]][0]).parameters)
        near = difflib.get_close_matches(parameter[2], names, n=1)
        hint = (
            f"; did you mean {parameter[1]}.{near[0]}?" if near else f"; it has {', '.join(names)}"
        )
        first = f"unknown binding: {parameter[1]} has no option {parameter[2]!r}{hint}"
    if place and place.lastindex == 2:
        return f"{place[1]}, line {place[2]}: {first}"
    return first
