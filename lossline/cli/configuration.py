"""Turn command lines and gin files into one tree of frozen option dataclasses.

The other rooms do not use gin. An entry point gives its options class, the components that a gin
file may build, and the function to call. Every user error on the way is one line with exit status
2.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import gc
import inspect
import io
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lossline.cli.file_errors import refusal_of_a_place
from lossline.cli.leaving import Leaving, is_a_verb
from lossline.errors import UserError
from lossline.gin_files.parsed_files import (
    ParsedFiles,
    found_file,
    may_import,
    search_paths,
)
from lossline.gin_files.registration import REGISTERED, register
from lossline.options.names import Owners, owners_of

Loader = Callable[[], "Verb"]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """What an entry point does after its imports.

    Attributes:
        options: frozen keyword-only dataclass; bound in gin under the verb's name (``train.steps =
            100``).
        run: function called with the built options.
        components: gin name -> dataclass (or keyword-only function) that gin may build for a field
            of the options (``@llama()``).
        name: gin name of the options; empty: the verb's name.
    """

    options: type
    run: Callable[[Any], object]
    components: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Flag:
    """A command-line flag that stands for one gin binding.

    Attributes:
        binding: gin key that the flag binds.
        help: text for ``--help``.
        kind: "value" (``--name=x``), "number" (``--name=0.5``), "whole" (``--name=3``), "values"
            (``--name a b``), "switch" (``--name``) or "positional" (``x``).
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
    """Parse the command line, build the options and run the verb; a user error exits with status 2.

    Args:
        name: the verb, which is also the gin name of its options.
        description: text of ``--help``, usually the module's docstring.
        load: imports the heavy modules and returns the ``Verb``; not called for ``--help``.
        flags: flag name -> ``Flag`` or ``(binding, help)``.
        argv: arguments after the program's name; default ``sys.argv[1:]``.
    """
    known = {
        key: flag if isinstance(flag, Flag) else Flag(*flag) for key, flag in (flags or {}).items()
    }
    _print_in_any_locale()
    leaving = Leaving(f"lossline {name}: interrupted; run the same command again to continue")
    try:
        with _without_collections():
            gin_files, bindings = _parse_command_line(name, description, known, argv, load)
            _require_files(gin_files)
            if bindings:
                _refuse_unknown(bindings, owners_of(name, load), gin_files)
            verb = load()
            options = build_options(name, verb, gin_files=gin_files, bindings=bindings)
        leaving.begin_work()
        verb.run(options)
    except UserError as error:
        print(f"lossline {name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        if not _reader_has_gone():
            raise  # another pipe broke: a bug
        # Python flushes stdout at exit; send that to /dev/null, so that it cannot fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except Exception as error:
        if (refusal := refusal_of_a_place(error)) is None:
            raise  # a bug
        print(f"lossline {name}: error: {refusal}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        leaving.leave()


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """Collect no garbage while modules are imported and options are built, and never visit later
    what exists then.

    Collections took a quarter of the time of the imports. Modules stay to the end, and so does the
    little garbage made meanwhile. Other programs than a verb, such as a notebook, keep their
    collector as it is.
    """
    if not (is_a_verb() and gc.isenabled()):
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()


def _print_in_any_locale() -> None:
    """Let a locale without "×" or "R²" show an escape of the character, instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_has_gone() -> bool:
    """Return whether the reader of standard output has closed it (``… | head``)."""
    output = select.poll()
    output.register(1)
    return any(event & select.POLLERR for _, event in output.poll(0))


def build_options(
    name: str, verb: Verb, *, gin_files: Sequence[str | Path] = (), bindings: Sequence[str] = (),
    parsed: ParsedFiles | None = None,
) -> Any:  # fmt: skip
    """Build ``verb.options`` from gin files and bindings.

    Args:
        name: name of the verb.
        verb: the verb.
        gin_files: gin files, in order.
        bindings: binding lines, applied after the files.
        parsed: files parsed by earlier calls for the same verb; keeps those of this call.

    Raises:
        UserError: a file is missing, or a binding is unknown, unused, missing or of a wrong type.
    """
    import gin

    gin.clear_config(clear_constants=True)
    factory = register(verb.name or name, verb.options)
    for component_name, component in verb.components.items():
        register(component_name, component)
    files, parsed = [str(path) for path in gin_files], parsed or ParsedFiles()
    if not parsed.has(files):
        _require_files(files)
    try:
        parsed.parse(files, bindings)
    except UserError as error:
        raise UserError(str(error).splitlines()[0]) from error  # gin appends file and line
    except Exception as error:  # also whatever a module raises that a file imports
        raise UserError(_gin_message(error)) from error
    _refuse_unset_macros()
    try:
        options = factory()
    except UserError as error:
        raise UserError(str(error).splitlines()[0]) from error  # gin appends its call stack
    except RecursionError:
        raise UserError(_macro_circle()) from None
    except (RuntimeError, ValueError) as error:
        if "Required bindings" in str(error) or "No configurable matching" in str(error):
            raise UserError(_gin_message(error)) from error
        raise
    _refuse_unused()
    return options


def binding(key: str, value: object) -> str:
    """Return a gin binding line for a Python value.

    ``binding("train.steps", 3)`` is ``"train.steps = 3"``.
    """
    if isinstance(value, str) and value[:1] in ("@", "%"):
        return f"{key} = {value}"
    return f"{key} = {value!r}"


# --- command line --------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are user errors of one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}. See --help.")


def _parse_command_line(
    name: str,
    description: str | None,
    flags: Mapping[str, Flag],
    argv: Sequence[str] | None,
    load: Loader,
) -> tuple[list[str], list[str]]:
    parser = _Parser(
        prog=f"python -m lossline.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--gin.NAME=VALUE binds one option and overrides the files: --gin.train.steps=100",
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
        elif flag.kind in ("number", "whole"):
            kind = float if flag.kind == "number" else int
            parser.add_argument(f"--{key}", type=kind, metavar="NUMBER", help=text)
        else:
            parser.add_argument(f"--{key}", nargs="+" if flag.kind == "values" else None, help=text)
    parser.add_argument(
        "--gin_bindings",
        metavar="LINE",
        help="line of gin, as in a file: 'train.steps = 100'; may be given more than once",
    )
    parser.add_argument(
        "--gin_search_paths",
        default="",
        metavar="FOLDERS",
        help="folders, separated by commas, in which gin files and included files are looked for",
    )
    flagged, bound = _without_bindings(sys.argv[1:] if argv is None else argv)
    known, rest = parser.parse_known_args(flagged)
    search_paths[:] = _folders(known.gin_search_paths)
    bindings = []
    for key, flag in flags.items():
        value = getattr(known, key)
        if value is not None:
            bindings.append(f"{flag.binding} = {_gin_value(repr(value))}")  # nan: as a string
    bindings += _gin_bindings(
        [*rest, *bound], lambda argument: _meant(argument, flags, owners_of(name, load))
    )
    return known.gin_file, bindings


def _without_bindings(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments without ``--gin.NAME=VALUE`` and ``--gin_bindings=LINE``, and these.

    The value may be the next argument. They keep their order, since a later one overrides.
    argparse takes an argument with a space for a value of the flag before it.
    """
    others: list[str] = []
    bound: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument.startswith("--gin.") or argument.partition("=")[0] == "--gin_bindings":
            bound.append(argument)
            if "=" not in argument and rest and not rest[0].startswith("--"):
                bound.append(rest.pop(0))
        else:
            others.append(argument)
    return others, bound


def _require_files(files: Sequence[str]) -> None:
    for path in files:
        if Path(path).is_dir():
            raise UserError(f"--gin_file: {path} is a folder. Give the path of a gin file.")
        if found_file(path) is None:
            raise UserError(f"--gin_file: no file {path}{_nearest_file(Path(path))}")


def _refuse_unknown(bindings: Sequence[str], owners: Owners, files: Sequence[str]) -> None:
    """Check the names of bindings before the verb's modules are imported.

    Raises:
        UserError: a component has no such option, or no component has that name and no file
            imports others.
    """
    for line in bindings:
        name, equals, _ = line.partition("=")
        owner, _, option = name.strip().rpartition("/")[2].rpartition(".")
        if owner in owners:
            if option not in owners[owner]:
                near = _nearest_option(owner, option, owners[owner])
                raise UserError(f"unknown binding: {owner} has no option {option!r}{near}")
        elif owner and equals and _is_unknown(owner, owners) and not may_import(files):
            raise UserError(_nothing_called(owner, sorted(owners)))


def _is_unknown(owner: str, owners: Owners) -> bool:
    """Return whether a name, perhaps with its module before it, is neither ours nor gin's own."""
    return owner.rpartition(".")[2] not in {*owners, "macro", "constant", "singleton"}


def _nothing_called(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name.rpartition("/")[2], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known names: {', '.join(known)}"
    return f"unknown binding: nothing is called {name!r}{hint}"


def _nearest_option(owner: str, option: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(option, names, n=1)
    return f"; did you mean {owner}.{near[0]}?" if near else f"; it has {', '.join(names)}"


def _meant(argument: str, flags: Mapping[str, Flag], owners: Owners) -> str:
    """Return a suggestion for an unknown argument.

    It is an option of the verb or of one of its components, or a flag with a similar name.
    """
    option = argument.lstrip("-").partition("=")[0].replace("-", "_")
    bound = [
        f"--gin.{owner}.{option}=VALUE"
        for owner, names in owners.items()
        if argument.startswith("--") and option in names
    ]
    if option in flags and flags[option].kind == "positional":
        return f"give {option} without a name, see --help"
    if bound and option not in flags:
        more = ", …" if len(bound) > 3 else ""
        return f"did you mean {' or '.join(bound[:3])}{more}?"
    named = [key for key, flag in flags.items() if flag.kind != "positional"]
    near = difflib.get_close_matches(option, ["gin_file", *named], n=1)
    if near and argument.startswith("--"):
        return f"did you mean --{near[0]}?"
    return "bind options as --gin.NAME=VALUE, see --help"


def _gin_bindings(arguments: Sequence[str], meant: Callable[[str], str]) -> list[str]:
    """Turn ``--gin.NAME=VALUE`` and ``--gin_bindings=LINE`` into binding lines.

    A bare word becomes a string; a line of gin stays as it is. ``meant`` gives a suggestion for
    every other argument.
    """
    bindings = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        line = argument.partition("=")[0] == "--gin_bindings"
        if not line and not argument.startswith("--gin."):
            raise UserError(f"unknown argument {argument}; {meant(argument)}")
        key, equals, value = argument.removeprefix("--gin.").partition("=")
        if not equals:
            if not rest:
                raise UserError(f"{argument} has no value. Write {argument}=VALUE.")
            value = rest.pop(0)
        if line:
            bindings.append(value)
            continue
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


def _folders(text: str) -> list[str]:
    """Return the folders of ``--gin_search_paths``."""
    folders = [folder for folder in text.split(",") if folder]
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(
                f"--gin_search_paths: the folder {folder} does not exist. Give existing folders."
            )
    return folders


def _nearest_file(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": the folder {folder} does not exist. Give the path of an existing file."
    near = difflib.get_close_matches(path.name, [item.name for item in folder.iterdir()], n=1)
    return f"; did you mean {folder / near[0]}?" if near else ". Give the path of an existing file."


# --- gin -----------------------------------------------------------------------------------------


def _refuse_unused() -> None:
    """Check that every binding was used.

    An unused binding is a spelling error, or the reference to its component is missing.

    Raises:
        UserError: a binding was not used.
    """
    from gin import config as gin_config

    used = gin_config._OPERATIVE_CONFIG  # gin offers no public reader of what was used
    for (scope, selector), parameters in gin_config._CONFIG.items():
        scopes = [s for s, other in used if other == selector]
        if any(s == scope or scope == "" or s.startswith(f"{scope}/") for s in scopes):
            continue
        if selector == "gin.macro":
            raise UserError(
                f"unused binding: {scope} = … is set but %{scope} is used nowhere. "
                "Remove it or refer to it."
            )
        component = selector.removeprefix("lossline.")
        name = f"{scope}/{component}" if scope else component
        key = next(iter(parameters), "")
        raise UserError(
            f"unused binding: {name}.{key} is set but @{name}() is used nowhere. "
            "Remove it or refer to it."
        )


def _refuse_unset_macros() -> None:
    """Check that every macro that is referred to is set.

    Raises:
        UserError: a macro is not set.
    """
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
                    f"missing binding: {where}, which is not set. Add a line {name} = …"
                )


def _macro_circle() -> str:
    """Return the message about macros that refer to each other."""
    from gin import config

    refers = {
        scope: str(bound["value"]).lstrip("%")
        for (scope, selector), bound in config._CONFIG.items()
        if selector == "gin.macro"
    }
    for name in refers:
        chain = [name]
        while (following := refers.get(chain[-1])) and following not in chain:
            chain.append(following)
        if following == name:
            shown = " → ".join(f"%{part}" for part in [*chain, name])
            return f"macros refer to each other: {shown}. Bind one of them to a value."
    return "a gin file refers to itself without end. Bind its macros and references to values."


def _gin_message(error: Exception) -> str:
    """Return gin's message in one line, with file and line number first."""
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
        return (
            f"missing binding: {keys}. Bind it in a gin file (--gin_file=…) or with --gin.{first}=…"
        )
    absent = re.search(r"Unable to open file: (\S+)\. Searched config paths: (\[.*?\])", text)
    if absent:
        folders = dict.fromkeys(folder or "." for folder in ast.literal_eval(absent[2]))
        first = f"no file {absent[1]} to include in {', '.join(folders)}. Correct the path."
    unknown = re.search(r"No configurable matching (?:reference )?'@?%?([\w./]+)", text)
    if unknown:
        first = _nothing_called(unknown[1], sorted(REGISTERED))
    parameter = re.search(r"Configurable '([\w./]+)' doesn't have a parameter named '(\w+)'", text)
    if parameter and parameter[1] in REGISTERED:
        names = list(inspect.signature(REGISTERED[parameter[1]][0]).parameters)
        hint = _nearest_option(parameter[1], parameter[2], names)
        first = f"unknown binding: {parameter[1]} has no option {parameter[2]!r}{hint}"
    if place and place.lastindex == 2:
        return f"{place[1]}, line {place[2]}: {first}"
    return first
